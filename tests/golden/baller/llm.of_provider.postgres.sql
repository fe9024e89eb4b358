LlmInteraction.by_provider_model
  read baller-llm-interactions by index ProviderModelIndex: provider =
  in order of model, timestamp, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "message_id", "llm_call_id", "conversation_id", "user_id", "app_mode", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error_message", "timestamp", "ttl", "s3_reference", "_by_provider_model_shard", "_by_purpose_shard", "_revision", "_deleting" FROM "public"."baller-llm-interactions" WHERE "provider" = $1 AND "_by_provider_model_shard" = $2 AND "timestamp" IS NOT NULL ORDER BY "model", "timestamp", "message_id", "llm_call_id" LIMIT $3
