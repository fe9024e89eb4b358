Message.by_user
  read baller-messages by index UserMessageIndex: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "conversation_id", "message_id", "user_id", "server_id", "channel_id", "app_mode", "message_type", "content", "timestamp", "ttl", "relevance_check", "intent", "entities", "context_used", "s3_references", "relevance_response", "processing_metadata", "_intent_name", "_by_intent_shard", "_revision", "_deleting" FROM "public"."baller-messages" WHERE "user_id" = $1 AND "timestamp" >= $2 AND "timestamp" < $3 AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "conversation_id" DESC, "message_id" DESC LIMIT $4
