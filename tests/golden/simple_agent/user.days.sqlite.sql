UserDay.key
  read user_days by the key: user_id =, day >=, day <
  in order of day, newest first, 100 records a page
  SELECT "user_id", "day", "channel_type", "ttl", "_by_day_shard", "_revision", "_deleting" FROM "user_days" WHERE "user_id" = ? AND "day" >= ? AND "day" < ? ORDER BY "day" DESC LIMIT ?
