Message.by_id
  read messages by index idx_messages_id: message_id =
  in order of the key, 1 records a page
  index reads are eventual on cloud engines
  SELECT "conversation_id", "id", "user_id", "tenant", "channel_type", "role", "content", "model_used", "token_count", "timestamp", "tool_calls", "tool_call_id", "tool_name", "delivery_id", "latency", "error", "ttl", "metadata", "_by_timestamp_shard", "_revision", "_deleting" FROM "messages" INDEXED BY "messages:idx_messages_id" WHERE "id" = ? ORDER BY "conversation_id" LIMIT ?
