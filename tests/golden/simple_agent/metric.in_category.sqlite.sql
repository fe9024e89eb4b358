Metric.by_category
  read metrics by index by_category: metric_category =, metric_date >=, metric_date <
  in order of metric_date, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "metric_date", "metric_id", "metric_category", "metric_name", "app_mode", "count", "sum", "min", "max", "buckets", "counted_to", "_by_date_shard", "_by_category_shard", "_by_app_mode_shard", "_revision", "_deleting" FROM "metrics" INDEXED BY "metrics:by_category" WHERE "metric_category" = ? AND "_by_category_shard" = ? AND "metric_date" >= ? AND "metric_date" < ? ORDER BY "metric_date", "metric_id" LIMIT ?
