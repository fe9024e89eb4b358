Feedback.by_user
  read feedback by index idx_feedback_user: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "message_id", "user_id", "tenant", "conversation_id", "channel_type", "rating", "comment", "model_used", "timestamp", "_by_rating_shard", "_revision", "_deleting" FROM "public"."feedback" WHERE "user_id" = $1 AND "timestamp" >= $2 AND "timestamp" < $3 AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "message_id" DESC LIMIT $4
