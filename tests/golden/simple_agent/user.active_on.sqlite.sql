UserDay.by_day
  read user_days by index idx_user_days_day: day =
  in order of user_id, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "user_id", "day", "channel_type", "ttl", "_by_day_shard", "_revision", "_deleting" FROM "user_days" INDEXED BY "user_days:idx_user_days_day" WHERE "day" = ? AND "_by_day_shard" = ? ORDER BY "user_id" LIMIT ?
