ApiInteraction.key
  read baller-api-interactions by the key: message_id =
  in order of api_call_id, 100 records a page
  SELECT "message_id", "api_call_id", "conversation_id", "user_id", "app_mode", "endpoint", "endpoint_template", "parameters", "status_code", "success", "error_message", "response_size", "latency", "timestamp", "ttl", "s3_reference", "_by_endpoint_shard", "_revision", "_deleting" FROM "public"."baller-api-interactions" WHERE "message_id" = $1 ORDER BY "api_call_id" LIMIT $2
