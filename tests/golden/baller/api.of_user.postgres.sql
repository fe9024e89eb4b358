ApiInteraction.by_user
  read baller-api-interactions by index UserIndex: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "message_id", "api_call_id", "conversation_id", "user_id", "app_mode", "endpoint", "endpoint_template", "parameters", "status_code", "success", "error_message", "response_size", "latency", "timestamp", "ttl", "s3_reference", "_by_endpoint_shard", "_revision", "_deleting" FROM "public"."baller-api-interactions" WHERE "user_id" = $1 AND "timestamp" >= $2 AND "timestamp" < $3 AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "message_id" DESC, "api_call_id" DESC LIMIT $4
