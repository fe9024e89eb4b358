UserPreferences.by_server
  read baller-preferences by index ServerIndex: server_id =
  in order of last_updated, newest first, 100 records a page
  index reads are eventual on cloud engines
  SELECT "user_id", "server_id", "username", "followed_teams", "preferred_leagues", "notification_settings", "last_updated", "created_at", "preferences_version", "_by_server_server_id", "_revision", "_deleting" FROM "public"."baller-preferences" WHERE "_by_server_server_id" = $1 AND "last_updated" IS NOT NULL ORDER BY "last_updated" DESC, "user_id" DESC, "server_id" DESC LIMIT $2
