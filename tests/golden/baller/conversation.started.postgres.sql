Conversation.by_created
  read baller-conversations by index CreatedAtIndex: app_mode =, created_at >=, created_at <
  in order of created_at, newest first, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "user_id", "conversation_id", "server_id", "channel_id", "created_at", "last_active", "ttl", "app_mode", "environment", "summary", "metrics", "_by_created_shard", "_revision", "_deleting" FROM "public"."baller-conversations" WHERE "app_mode" = $1 AND "_by_created_shard" = $2 AND "created_at" >= $3 AND "created_at" < $4 AND "created_at" IS NOT NULL ORDER BY "created_at" DESC, "user_id" DESC, "conversation_id" DESC LIMIT $5
