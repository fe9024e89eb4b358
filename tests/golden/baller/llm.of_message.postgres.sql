LlmInteraction.key
  read baller-llm-interactions by the key: message_id =
  in order of llm_call_id, 100 records a page
  SELECT "message_id", "llm_call_id", "conversation_id", "user_id", "app_mode", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error_message", "timestamp", "ttl", "s3_reference", "_by_provider_model_shard", "_by_purpose_shard", "_revision", "_deleting" FROM "public"."baller-llm-interactions" WHERE "message_id" = $1 ORDER BY "llm_call_id" LIMIT $2
