Feedback.key
  read feedback by the key: message_id =
  in order of user_id, 100 records a page
  SELECT "message_id", "user_id", "tenant", "conversation_id", "channel_type", "rating", "comment", "model_used", "timestamp", "_by_rating_shard", "_revision", "_deleting" FROM "public"."feedback" WHERE "message_id" = $1 ORDER BY "user_id" LIMIT $2
