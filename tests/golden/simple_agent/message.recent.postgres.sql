Message.key
  read messages by the key: conversation_id =
  in order of message_id, newest first, 20 records a page
  SELECT "conversation_id", "id", "user_id", "tenant", "channel_type", "role", "content", "model_used", "token_count", "timestamp", "tool_calls", "tool_call_id", "tool_name", "delivery_id", "latency", "error", "ttl", "metadata", "_by_timestamp_shard", "_revision", "_deleting" FROM "public"."messages" WHERE "conversation_id" = $1 ORDER BY "id" DESC LIMIT $2
