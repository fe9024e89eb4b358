-- s: version 1 to 1, for sqlite

-- index by_name of things goes
DROP INDEX IF EXISTS "things:by_name";

-- index by_x of things goes
DROP INDEX IF EXISTS "things:by_x";

-- column name of things becomes title
ALTER TABLE "things" RENAME COLUMN "name" TO "title";

-- column fresh of things
ALTER TABLE "things" ADD COLUMN "fresh" /* text */ TEXT;

-- column owner of things
ALTER TABLE "things" ADD COLUMN "owner" /* text */ TEXT;

-- column place of things
ALTER TABLE "things" ADD COLUMN "place" /* json */ TEXT;

-- column _n of things
ALTER TABLE "things" ADD COLUMN "_n" /* text shadow */ TEXT;

-- column _place_town of things
ALTER TABLE "things" ADD COLUMN "_place_town" /* text shadow */ TEXT;

-- column _by_x_shard of things
ALTER TABLE "things" ADD COLUMN "_by_x_shard" /* int shadow */ INTEGER;

-- column n of things becomes float, required
CREATE TABLE IF NOT EXISTS "palaver_new:things" (/* {"entity": "Thing", "partition": 1, "expires": null, "feed": true} */
  "id" /* text */ TEXT NOT NULL,
  "title" /* text */ TEXT NOT NULL,
  "n" /* float */ REAL NOT NULL,
  "gone" /* text */ TEXT NOT NULL,
  "left" /* text */ TEXT,
  "x" /* text */ TEXT NOT NULL CHECK ("x" IN ('a', 'b')),
  "fresh" /* text */ TEXT,
  "owner" /* text */ TEXT,
  "place" /* json */ TEXT,
  "_n" /* text shadow */ TEXT,
  "_place_town" /* text shadow */ TEXT,
  "_by_x_shard" /* int shadow */ INTEGER,
  "_revision" INTEGER NOT NULL,
  "_deleting" INTEGER,
  PRIMARY KEY ("id")
) STRICT;
INSERT INTO "palaver_new:things" ("id", "title", "n", "gone", "left", "x", "fresh", "owner", "place", "_n", "_place_town", "_by_x_shard", "_revision", "_deleting") SELECT "id", "title", "n", "gone", "left", "x", "fresh", "owner", "place", "_n", "_place_town", "_by_x_shard", "_revision", "_deleting" FROM "things";
DROP TABLE IF EXISTS "things";
ALTER TABLE "palaver_new:things" RENAME TO "things";

-- column x of things becomes text, required, one of a, b, c
CREATE TABLE IF NOT EXISTS "palaver_new:things" (/* {"entity": "Thing", "partition": 1, "expires": null, "feed": true} */
  "id" /* text */ TEXT NOT NULL,
  "title" /* text */ TEXT NOT NULL,
  "n" /* float */ REAL NOT NULL,
  "gone" /* text */ TEXT NOT NULL,
  "left" /* text */ TEXT,
  "x" /* text */ TEXT NOT NULL CHECK ("x" IN ('a', 'b', 'c')),
  "fresh" /* text */ TEXT,
  "owner" /* text */ TEXT,
  "place" /* json */ TEXT,
  "_n" /* text shadow */ TEXT,
  "_place_town" /* text shadow */ TEXT,
  "_by_x_shard" /* int shadow */ INTEGER,
  "_revision" INTEGER NOT NULL,
  "_deleting" INTEGER,
  PRIMARY KEY ("id")
) STRICT;
INSERT INTO "palaver_new:things" ("id", "title", "n", "gone", "left", "x", "fresh", "owner", "place", "_n", "_place_town", "_by_x_shard", "_revision", "_deleting") SELECT "id", "title", "n", "gone", "left", "x", "fresh", "owner", "place", "_n", "_place_town", "_by_x_shard", "_revision", "_deleting" FROM "things";
DROP TABLE IF EXISTS "things";
ALTER TABLE "palaver_new:things" RENAME TO "things";

-- fill fresh, owner, place, _n, _place_town, _by_x_shard of things: left to `palaver migrate apply`, which reads every record

-- reserve the values of Thing.one: left to `palaver migrate apply`, which reads every record

-- column owner of things becomes text, required
CREATE TABLE IF NOT EXISTS "palaver_new:things" (/* {"entity": "Thing", "partition": 1, "expires": null, "feed": true} */
  "id" /* text */ TEXT NOT NULL,
  "title" /* text */ TEXT NOT NULL,
  "n" /* float */ REAL NOT NULL,
  "gone" /* text */ TEXT NOT NULL,
  "left" /* text */ TEXT,
  "x" /* text */ TEXT NOT NULL CHECK ("x" IN ('a', 'b', 'c')),
  "fresh" /* text */ TEXT,
  "owner" /* text */ TEXT NOT NULL,
  "place" /* json */ TEXT,
  "_n" /* text shadow */ TEXT,
  "_place_town" /* text shadow */ TEXT,
  "_by_x_shard" /* int shadow */ INTEGER,
  "_revision" INTEGER NOT NULL,
  "_deleting" INTEGER,
  PRIMARY KEY ("id")
) STRICT;
INSERT INTO "palaver_new:things" ("id", "title", "n", "gone", "left", "x", "fresh", "owner", "place", "_n", "_place_town", "_by_x_shard", "_revision", "_deleting") SELECT "id", "title", "n", "gone", "left", "x", "fresh", "owner", "place", "_n", "_place_town", "_by_x_shard", "_revision", "_deleting" FROM "things";
DROP TABLE IF EXISTS "things";
ALTER TABLE "palaver_new:things" RENAME TO "things";

-- index by_name of things
DROP INDEX IF EXISTS "things:by_name";
CREATE INDEX IF NOT EXISTS "things:by_name" ON "things" /* {"partition": ["title"], "sort": ["_n"]} */ ("title", "_n", "id") WHERE "_n" IS NOT NULL;

-- index by_x of things
DROP INDEX IF EXISTS "things:by_x";
CREATE INDEX IF NOT EXISTS "things:by_x" ON "things" /* {"partition": ["x", "_by_x_shard"], "sort": ["_n"]} */ ("x", "_by_x_shard", "_n", "id") WHERE "_by_x_shard" IS NOT NULL AND "_n" IS NOT NULL;

-- index by_town of things
DROP INDEX IF EXISTS "things:by_town";
CREATE INDEX IF NOT EXISTS "things:by_town" ON "things" /* {"partition": ["_place_town"], "sort": []} */ ("_place_town", "id") WHERE "_place_town" IS NOT NULL;

-- free the values of Thing.old: left to `palaver migrate apply`, which reads every record

-- column gone of things goes, with its values
ALTER TABLE "things" DROP COLUMN "gone";
