LoginSession.key
  read sessions by the key: user =
  in order of id, 100 records a page
  SELECT "user", "id", "started", "ends", "last_seen", "edition", "version", "payload", "expires", "_revision", "_deleting" FROM "sessions" WHERE "user" = ? ORDER BY "id" LIMIT ?
