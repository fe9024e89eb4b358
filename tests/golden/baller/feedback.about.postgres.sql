Feedback.by_owner
  read baller-feedback by index OwnerIndex: owner_id =
  in order of rating_timestamp, 100 records a page
  index reads are eventual on cloud engines
  SELECT "message_id", "user_id", "conversation_id", "owner_id", "rating", "rating_timestamp", "follow_up_feedback", "app_mode", "server_id", "intent_name", "response_snapshot", "sentiment", "ttl", "_by_app_mode_shard", "_revision", "_deleting" FROM "public"."baller-feedback" WHERE "owner_id" = $1 AND "rating_timestamp" IS NOT NULL ORDER BY "rating_timestamp", "message_id", "user_id" LIMIT $2
