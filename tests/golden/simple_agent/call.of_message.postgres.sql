ModelCall.key
  read model_calls by the key: conversation_id =, message_id =
  in order of message_id, call_id, 100 records a page
  SELECT "conversation_id", "message_id", "call_id", "user_id", "channel_type", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error", "timestamp", "ttl", "_by_model_shard", "_revision", "_deleting" FROM "public"."model_calls" WHERE "conversation_id" = $1 AND "message_id" = $2 ORDER BY "call_id" LIMIT $3
