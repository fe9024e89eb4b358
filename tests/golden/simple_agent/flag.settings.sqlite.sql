FeatureFlag.key
  read feature_flags by the key: namespace =
  in order of flag, scope, target, 100 records a page
  SELECT "namespace", "flag", "scope", "target", "value", "share", "by", "reason", "changed", "user", "_revision", "_deleting" FROM "feature_flags" WHERE "namespace" = ? ORDER BY "flag", "scope", "target" LIMIT ?
