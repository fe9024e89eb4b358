-- s: version 1 to 1, for postgresql

-- index by_name of things goes
DROP INDEX IF EXISTS "public"."things:by_name";

-- index by_x of things goes
DROP INDEX IF EXISTS "public"."things:by_x";

-- column name of things becomes title
ALTER TABLE "public"."things" RENAME COLUMN "name" TO "title";
COMMENT ON COLUMN "public"."things"."title" IS '{"name":"title","kind":"text"}';
COMMENT ON TABLE "public"."things" IS '{"palaver":"things","entity":"Thing","partition":["id"],"sort":[],"expires":null,"feed":true}';

-- column fresh of things
ALTER TABLE "public"."things" ADD COLUMN "fresh" /* text */ text COLLATE "C";
COMMENT ON COLUMN "public"."things"."fresh" IS '{"name":"fresh","kind":"text"}';

-- column owner of things
ALTER TABLE "public"."things" ADD COLUMN "owner" /* text */ text COLLATE "C";
COMMENT ON COLUMN "public"."things"."owner" IS '{"name":"owner","kind":"text"}';

-- column place of things
ALTER TABLE "public"."things" ADD COLUMN "place" /* json */ jsonb;
COMMENT ON COLUMN "public"."things"."place" IS '{"name":"place","kind":"json"}';

-- column _n of things
ALTER TABLE "public"."things" ADD COLUMN "_n" /* text shadow */ text COLLATE "C";
COMMENT ON COLUMN "public"."things"."_n" IS '{"name":"_n","kind":"text","shadow":true}';

-- column _place_town of things
ALTER TABLE "public"."things" ADD COLUMN "_place_town" /* text shadow */ text COLLATE "C";
COMMENT ON COLUMN "public"."things"."_place_town" IS '{"name":"_place_town","kind":"text","shadow":true}';

-- column _by_x_shard of things
ALTER TABLE "public"."things" ADD COLUMN "_by_x_shard" /* int shadow */ bigint;
COMMENT ON COLUMN "public"."things"."_by_x_shard" IS '{"name":"_by_x_shard","kind":"int","shadow":true}';

-- column n of things becomes float, required
ALTER TABLE "public"."things" DROP CONSTRAINT IF EXISTS "things_n_check";
ALTER TABLE "public"."things" ALTER COLUMN "n" TYPE double precision USING "n"::double precision;
ALTER TABLE "public"."things" ALTER COLUMN "n" SET NOT NULL;
COMMENT ON COLUMN "public"."things"."n" IS '{"name":"n","kind":"float"}';

-- column x of things becomes text, required, one of a, b, c
ALTER TABLE "public"."things" DROP CONSTRAINT IF EXISTS "things_x_check";
ALTER TABLE "public"."things" ALTER COLUMN "x" TYPE text COLLATE "C" USING "x"::text;
ALTER TABLE "public"."things" ALTER COLUMN "x" SET NOT NULL;
ALTER TABLE "public"."things" ADD CHECK ("x" IN ('a', 'b', 'c'));
COMMENT ON COLUMN "public"."things"."x" IS '{"name":"x","kind":"text","check":["in",["a","b","c"]]}';

-- fill fresh, owner, place, _n, _place_town, _by_x_shard of things: left to `palaver migrate apply`, which reads every record

-- reserve the values of Thing.one: left to `palaver migrate apply`, which reads every record

-- column owner of things becomes text, required
ALTER TABLE "public"."things" DROP CONSTRAINT IF EXISTS "things_owner_check";
ALTER TABLE "public"."things" ALTER COLUMN "owner" TYPE text COLLATE "C" USING "owner"::text;
ALTER TABLE "public"."things" ALTER COLUMN "owner" SET NOT NULL;
COMMENT ON COLUMN "public"."things"."owner" IS '{"name":"owner","kind":"text"}';

-- index by_name of things
DROP INDEX IF EXISTS "public"."things:by_name";
CREATE INDEX IF NOT EXISTS "things:by_name" ON "public"."things" /* {"partition": ["title"], "sort": ["_n"]} */ ("title", "_n", "id") WHERE "_n" IS NOT NULL;
COMMENT ON INDEX "public"."things:by_name" IS '{"name":"by_name","partition":["title"],"sort":["_n"]}';

-- index by_x of things
DROP INDEX IF EXISTS "public"."things:by_x";
CREATE INDEX IF NOT EXISTS "things:by_x" ON "public"."things" /* {"partition": ["x", "_by_x_shard"], "sort": ["_n"]} */ ("x", "_by_x_shard", "_n", "id") WHERE "_by_x_shard" IS NOT NULL AND "_n" IS NOT NULL;
COMMENT ON INDEX "public"."things:by_x" IS '{"name":"by_x","partition":["x","_by_x_shard"],"sort":["_n"]}';

-- index by_town of things
DROP INDEX IF EXISTS "public"."things:by_town";
CREATE INDEX IF NOT EXISTS "things:by_town" ON "public"."things" /* {"partition": ["_place_town"], "sort": []} */ ("_place_town", "id") WHERE "_place_town" IS NOT NULL;
COMMENT ON INDEX "public"."things:by_town" IS '{"name":"by_town","partition":["_place_town"],"sort":[]}';

-- free the values of Thing.old: left to `palaver migrate apply`, which reads every record

-- column gone of things goes, with its values
ALTER TABLE "public"."things" DROP COLUMN "gone";
COMMENT ON TABLE "public"."things" IS '{"palaver":"things","entity":"Thing","partition":["id"],"sort":[],"expires":null,"feed":true}';
