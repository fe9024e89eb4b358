Message.key
  read baller-messages by the key: conversation_id =
  in order of message_id, newest first, 10 records a page
  SELECT "conversation_id", "message_id", "user_id", "server_id", "channel_id", "app_mode", "message_type", "content", "timestamp", "ttl", "relevance_check", "intent", "entities", "context_used", "s3_references", "relevance_response", "processing_metadata", "_intent_name", "_by_intent_shard", "_revision", "_deleting" FROM "public"."baller-messages" WHERE "conversation_id" = $1 ORDER BY "message_id" DESC LIMIT $2
