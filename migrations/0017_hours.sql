-- What the events of an hour add up to, series by series: each row is the fold of the (up to four) quarters of the hour
-- in usage_aggregates. A month of a tenant by day is then 720 to 744 rows and not four times as many, each of them in a
-- page of its own. Hours in UTC; where a bucket does not begin on one, as a day in Kolkata, its edges are read by the
-- quarter. Kept for ever.
CREATE TABLE tenancy.usage_hours (
    organization_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    -- Nil for the meter as a whole.
    series_id uuid NOT NULL,
    bucket_start timestamptz NOT NULL,
    event_count bigint NOT NULL,
    quantity_sum numeric NOT NULL,
    -- NULL but for the meters that need them: MIN, MAX and LATEST.
    quantity_min numeric,
    quantity_max numeric,
    latest_at timestamptz,
    latest_event_id uuid,
    latest_quantity numeric,
    CONSTRAINT usage_hours_pkey PRIMARY KEY (organization_id, meter_id, series_id, bucket_start),
    CONSTRAINT usage_hours_hour CHECK (date_bin('1 hour', bucket_start, 'epoch') = bucket_start),
    CONSTRAINT usage_hours_latest
        CHECK ((latest_at IS NULL) = (latest_event_id IS NULL) AND (latest_at IS NULL) = (latest_quantity IS NULL))
) WITH (fillfactor = 80);

-- Of the quarters that there are. Their policies bind the owner too, who would find none; and this takes the table for
-- itself until all of the migration is committed, so that no quarter is added without its hour. A replica of the version
-- before must not record after that: it knows of no hours.
ALTER TABLE tenancy.usage_aggregates NO FORCE ROW LEVEL SECURITY;
INSERT INTO tenancy.usage_hours (organization_id, meter_id, series_id, bucket_start, event_count, quantity_sum, quantity_min,
    quantity_max, latest_at, latest_event_id, latest_quantity)
SELECT organization_id, meter_id, series_id, date_bin('1 hour', bucket_start, 'epoch'), sum(event_count)::bigint,
    sum(quantity_sum), min(quantity_min), max(quantity_max), max(latest_at),
    (array_agg(latest_event_id ORDER BY latest_at DESC, latest_event_id DESC) FILTER (WHERE latest_at IS NOT NULL))[1],
    (array_agg(latest_quantity ORDER BY latest_at DESC, latest_event_id DESC) FILTER (WHERE latest_at IS NOT NULL))[1]
FROM tenancy.usage_aggregates
GROUP BY 1, 2, 3, 4;
ALTER TABLE tenancy.usage_aggregates FORCE ROW LEVEL SECURITY;

CALL tenancy.isolate('tenancy.usage_hours');
CALL tenancy.open_to_ingest('tenancy.usage_hours');
GRANT SELECT ON tenancy.usage_hours TO tenancy_app;
GRANT SELECT, INSERT, UPDATE ON tenancy.usage_hours TO tenancy_ingest;
-- A void makes an hour anew from its quarters, in the scope of its organization.
GRANT UPDATE, DELETE ON tenancy.usage_hours TO tenancy_app;
