Message.by_intent
  read baller-messages by index IntentIndex: intent.name =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "conversation_id", "message_id", "user_id", "server_id", "channel_id", "app_mode", "message_type", "content", "timestamp", "ttl", "relevance_check", "intent", "entities", "context_used", "s3_references", "relevance_response", "processing_metadata", "_intent_name", "_by_intent_shard", "_revision", "_deleting" FROM "public"."baller-messages" WHERE "_intent_name" = $1 AND "_by_intent_shard" = $2 AND "timestamp" >= $3 AND "timestamp" < $4 AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "conversation_id" DESC, "message_id" DESC LIMIT $5
