UserDay.key
  read user_days by the key: user_id =, day >=, day <
  in order of day, newest first, 100 records a page
  SELECT "user_id", "day", "channel_type", "ttl", "_by_day_shard", "_revision", "_deleting" FROM "public"."user_days" WHERE "user_id" = $1 AND "day" >= $2 AND "day" < $3 ORDER BY "day" DESC LIMIT $4
