Exposure.key
  read exposures by the key: user =
  in order of experiment, 100 records a page
  SELECT "user", "experiment", "variant", "exposed", "_by_experiment_shard", "_revision", "_deleting" FROM "public"."exposures" WHERE "user" = $1 ORDER BY "experiment" LIMIT $2
