FeatureFlag.by_user
  read feature_flags by index by_user: user =
  in order of flag, 100 records a page
  index reads are eventual on cloud engines
  SELECT "namespace", "flag", "scope", "target", "value", "share", "by", "reason", "changed", "user", "_revision", "_deleting" FROM "public"."feature_flags" WHERE "user" = $1 ORDER BY "flag", "namespace", "scope", "target" LIMIT $2
