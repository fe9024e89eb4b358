Conversation.by_activity
  read conversations by index idx_conversations_activity: last_activity >=, last_activity <
  in order of last_activity, newest first, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "id", "user_id", "tenant", "channel_type", "channel_user_id", "model_override", "started_at", "last_activity", "ended_at", "is_active", "message_count", "token_count", "error_count", "ttl", "metadata", "_is_active", "_by_activity_shard", "_by_active_shard", "_revision", "_deleting" FROM "conversations" INDEXED BY "conversations:idx_conversations_activity" WHERE "_by_activity_shard" = ? AND "last_activity" >= ? AND "last_activity" < ? AND "last_activity" IS NOT NULL ORDER BY "last_activity" DESC, "id" DESC LIMIT ?
