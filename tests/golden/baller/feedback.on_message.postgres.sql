Feedback.key
  read baller-feedback by the key: message_id =
  in order of user_id, 100 records a page
  SELECT "message_id", "user_id", "conversation_id", "owner_id", "rating", "rating_timestamp", "follow_up_feedback", "app_mode", "server_id", "intent_name", "response_snapshot", "sentiment", "ttl", "_by_app_mode_shard", "_revision", "_deleting" FROM "public"."baller-feedback" WHERE "message_id" = $1 ORDER BY "user_id" LIMIT $2
