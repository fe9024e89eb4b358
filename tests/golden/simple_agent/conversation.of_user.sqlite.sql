Conversation.by_user
  read conversations by index idx_conversations_user: user_id =, started_at >=, started_at <
  in order of started_at, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "id", "user_id", "tenant", "channel_type", "channel_user_id", "model_override", "started_at", "last_activity", "ended_at", "is_active", "message_count", "token_count", "error_count", "ttl", "metadata", "_is_active", "_by_activity_shard", "_by_active_shard", "_revision", "_deleting" FROM "conversations" INDEXED BY "conversations:idx_conversations_user" WHERE "user_id" = ? AND "started_at" >= ? AND "started_at" < ? AND "started_at" IS NOT NULL ORDER BY "started_at" DESC, "id" DESC LIMIT ?
