ChannelConfig.key
  read channel_configs by the key: tenant =
  in order of channel_type, 100 records a page
  SELECT "tenant", "channel_type", "default_model", "settings", "rate_limits", "created_at", "updated_at", "_revision", "_deleting" FROM "public"."channel_configs" WHERE "tenant" = $1 ORDER BY "channel_type" LIMIT $2
