ModelCall.by_user
  read model_calls by index idx_model_calls_user: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "conversation_id", "message_id", "call_id", "user_id", "channel_type", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error", "timestamp", "ttl", "_by_model_shard", "_revision", "_deleting" FROM "model_calls" INDEXED BY "model_calls:idx_model_calls_user" WHERE "user_id" = ? AND "timestamp" >= ? AND "timestamp" < ? AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "conversation_id" DESC, "message_id" DESC, "call_id" DESC LIMIT ?
