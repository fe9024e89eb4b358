Conversation.key
  read baller-conversations by the key: user_id =
  in order of conversation_id, newest first, 100 records a page
  SELECT "user_id", "conversation_id", "server_id", "channel_id", "created_at", "last_active", "ttl", "app_mode", "environment", "summary", "metrics", "_by_created_shard", "_revision", "_deleting" FROM "public"."baller-conversations" WHERE "user_id" = $1 ORDER BY "conversation_id" DESC LIMIT $2
