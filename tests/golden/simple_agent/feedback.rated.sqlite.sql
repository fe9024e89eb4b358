Feedback.by_rating
  read feedback by index idx_feedback_rating: rating =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "message_id", "user_id", "tenant", "conversation_id", "channel_type", "rating", "comment", "model_used", "timestamp", "_by_rating_shard", "_revision", "_deleting" FROM "feedback" INDEXED BY "feedback:idx_feedback_rating" WHERE "rating" = ? AND "_by_rating_shard" = ? AND "timestamp" >= ? AND "timestamp" < ? AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "message_id" DESC, "user_id" DESC LIMIT ?
