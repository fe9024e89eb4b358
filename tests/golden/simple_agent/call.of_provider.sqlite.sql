ModelCall.by_model
  read model_calls by index idx_model_calls_model: provider =
  in order of model, timestamp, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "conversation_id", "message_id", "call_id", "user_id", "channel_type", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error", "timestamp", "ttl", "_by_model_shard", "_revision", "_deleting" FROM "model_calls" INDEXED BY "model_calls:idx_model_calls_model" WHERE "provider" = ? AND "_by_model_shard" = ? AND "timestamp" IS NOT NULL ORDER BY "model", "timestamp", "conversation_id", "message_id", "call_id" LIMIT ?
