TurnRecord.key
  read turns by the key: conversation_id =
  in order of message_id, 100 records a page
  SELECT "conversation_id", "message_id", "user_id", "channel_type", "status", "last_step", "stopped_at", "error", "reply_id", "latency", "model_calls", "timestamp", "steps", "ttl", "_revision", "_deleting" FROM "public"."turns" WHERE "conversation_id" = $1 ORDER BY "message_id" LIMIT $2
