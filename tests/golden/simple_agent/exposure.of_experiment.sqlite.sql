Exposure.by_experiment
  read exposures by index by_experiment: experiment =, exposed >=, exposed <
  in order of exposed, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "user", "experiment", "variant", "exposed", "_by_experiment_shard", "_revision", "_deleting" FROM "exposures" INDEXED BY "exposures:by_experiment" WHERE "experiment" = ? AND "_by_experiment_shard" = ? AND "exposed" >= ? AND "exposed" < ? AND "exposed" IS NOT NULL ORDER BY "exposed", "user" LIMIT ?
