ModelUsage.by_day
  read model_usage by index by_day: day >=, day <
  in order of day, usage_id, 100 records a page
  4 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "day", "usage_id", "app_mode", "provider", "model", "purpose", "calls", "failures", "unpriced", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "latency_count", "latency_sum", "latency_min", "latency_max", "latency_buckets", "counted_to", "_by_day_shard", "_revision", "_deleting" FROM "public"."model_usage" WHERE "_by_day_shard" = $1 AND "day" >= $2 AND "day" < $3 ORDER BY "day", "usage_id" LIMIT $4
