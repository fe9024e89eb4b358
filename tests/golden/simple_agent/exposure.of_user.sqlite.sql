Exposure.key
  read exposures by the key: user =
  in order of experiment, 100 records a page
  SELECT "user", "experiment", "variant", "exposed", "_by_experiment_shard", "_revision", "_deleting" FROM "exposures" WHERE "user" = ? ORDER BY "experiment" LIMIT ?
