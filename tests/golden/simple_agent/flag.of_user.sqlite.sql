FeatureFlag.by_user
  read feature_flags by index by_user: user =
  in order of flag, 100 records a page
  index reads are eventual on cloud engines
  SELECT "namespace", "flag", "scope", "target", "value", "share", "by", "reason", "changed", "user", "_revision", "_deleting" FROM "feature_flags" INDEXED BY "feature_flags:by_user" WHERE "user" = ? ORDER BY "flag", "namespace", "scope", "target" LIMIT ?
