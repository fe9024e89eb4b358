UserActivity.by_last_seen
  read baller-user-activity by index InactivityIndex: last_seen <
  in order of last_seen, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "user_id", "last_seen", "_by_last_seen_shard", "_revision", "_deleting" FROM "public"."baller-user-activity" WHERE "_by_last_seen_shard" = $1 AND "last_seen" < $2 AND "last_seen" IS NOT NULL ORDER BY "last_seen", "user_id" LIMIT $3
