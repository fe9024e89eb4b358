Metric.by_date
  read metrics by index by_date: metric_date =
  in order of metric_id, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "metric_date", "metric_id", "metric_category", "metric_name", "app_mode", "count", "sum", "min", "max", "buckets", "counted_to", "_by_date_shard", "_by_category_shard", "_by_app_mode_shard", "_revision", "_deleting" FROM "public"."metrics" WHERE "metric_date" = $1 AND "_by_date_shard" = $2 ORDER BY "metric_id" LIMIT $3
