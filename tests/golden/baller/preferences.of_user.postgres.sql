UserPreferences.key
  read baller-preferences by the key: user_id =
  in order of server_id, 100 records a page
  SELECT "user_id", "server_id", "username", "followed_teams", "preferred_leagues", "notification_settings", "last_updated", "created_at", "preferences_version", "_by_server_server_id", "_revision", "_deleting" FROM "public"."baller-preferences" WHERE "user_id" = $1 ORDER BY "server_id" LIMIT $2
