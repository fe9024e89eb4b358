TurnRecord.by_user
  read turns by index idx_turns_user: user_id =, timestamp >=, timestamp <
  in order of timestamp, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "conversation_id", "message_id", "user_id", "channel_type", "status", "last_step", "stopped_at", "error", "reply_id", "latency", "model_calls", "timestamp", "steps", "ttl", "_revision", "_deleting" FROM "public"."turns" WHERE "user_id" = $1 AND "timestamp" >= $2 AND "timestamp" < $3 AND "timestamp" IS NOT NULL ORDER BY "timestamp" DESC, "conversation_id" DESC, "message_id" DESC LIMIT $4
