Message.by_user
  read messages by index idx_messages_user: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "conversation_id", "id", "user_id", "tenant", "channel_type", "role", "content", "model_used", "token_count", "timestamp", "tool_calls", "tool_call_id", "tool_name", "delivery_id", "latency", "error", "ttl", "metadata", "_by_timestamp_shard", "_revision", "_deleting" FROM "messages" INDEXED BY "messages:idx_messages_user" WHERE "user_id" = ? AND "timestamp" >= ? AND "timestamp" < ? AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "conversation_id" DESC, "id" DESC LIMIT ?
