Conversation.by_server
  read baller-conversations by index ServerIndex: server_id =, last_active >=, last_active <
  in order of last_active, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "user_id", "conversation_id", "server_id", "channel_id", "created_at", "last_active", "ttl", "app_mode", "environment", "summary", "metrics", "_by_created_shard", "_revision", "_deleting" FROM "public"."baller-conversations" WHERE "server_id" = $1 AND "last_active" >= $2 AND "last_active" < $3 AND "last_active" IS NOT NULL ORDER BY "last_active" DESC, "user_id" DESC, "conversation_id" DESC LIMIT $4
