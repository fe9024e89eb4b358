ModelCall.key
  read model_calls by the key: message_id =
  in order of call_id, 100 records a page
  SELECT "message_id", "call_id", "conversation_id", "user_id", "channel_type", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error", "timestamp", "ttl", "_by_model_shard", "_revision", "_deleting" FROM "model_calls" WHERE "message_id" = ? ORDER BY "call_id" LIMIT ?
