Feedback.by_user
  read baller-feedback by index UserFeedbackIndex: user_id =, rating_timestamp >=, rating_timestamp <
  in order of rating_timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "message_id", "user_id", "conversation_id", "owner_id", "rating", "rating_timestamp", "follow_up_feedback", "app_mode", "server_id", "intent_name", "response_snapshot", "sentiment", "ttl", "_by_app_mode_shard", "_revision", "_deleting" FROM "public"."baller-feedback" WHERE "user_id" = $1 AND "rating_timestamp" >= $2 AND "rating_timestamp" < $3 AND "rating_timestamp" IS NOT NULL ORDER BY "rating_timestamp" DESC, "message_id" DESC LIMIT $4
