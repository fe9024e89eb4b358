LlmInteraction.by_user
  read baller-llm-interactions by index UserIndex: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "message_id", "llm_call_id", "conversation_id", "user_id", "app_mode", "provider", "model", "purpose", "prompt_tokens", "completion_tokens", "total_tokens", "latency", "success", "error_message", "timestamp", "ttl", "s3_reference", "_by_provider_model_shard", "_by_purpose_shard", "_revision", "_deleting" FROM "public"."baller-llm-interactions" WHERE "user_id" = $1 AND "timestamp" >= $2 AND "timestamp" < $3 AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "message_id" DESC, "llm_call_id" DESC LIMIT $4
