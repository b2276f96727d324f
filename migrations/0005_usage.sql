-- Meters, usage events and their quarter-hour aggregates.
CREATE TABLE tenancy.meters (
    organization_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    key text NOT NULL,
    display_name text NOT NULL,
    unit text NOT NULL DEFAULT '',
    aggregation text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT meters_pkey PRIMARY KEY (organization_id, meter_id),
    CONSTRAINT meters_key UNIQUE (organization_id, key),
    CONSTRAINT meters_aggregation CHECK (aggregation IN ('count', 'sum')),
    CONSTRAINT meters_organization_fkey FOREIGN KEY (organization_id)
        REFERENCES tenancy.organizations (organization_id)
);
CALL tenancy.isolate('tenancy.meters');
GRANT SELECT, INSERT ON tenancy.meters TO tenancy_app;

-- Meters that count for every organization (a reference table on Citus).
CREATE TABLE tenancy.platform_meters (
    meter_id uuid NOT NULL,
    key text NOT NULL,
    display_name text NOT NULL,
    unit text NOT NULL DEFAULT '',
    aggregation text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT platform_meters_pkey PRIMARY KEY (meter_id),
    CONSTRAINT platform_meters_key UNIQUE (key),
    CONSTRAINT platform_meters_aggregation CHECK (aggregation IN ('count', 'sum'))
);
GRANT SELECT ON tenancy.platform_meters TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.platform_meters TO tenancy_platform;

-- The raw events, a partition a week. Time stands before the identity in the key, so that the index grows at its end:
-- measured, a row costs 300 bytes of WAL so and 2,100 with a random key. No foreign key to the meter: the writer
-- resolves meters, and a check a row would halve its speed.
CREATE TABLE tenancy.usage_events (
    organization_id uuid NOT NULL,
    -- Whole milliseconds; with event_id the identity of the event.
    occurred_at timestamptz NOT NULL,
    -- The producer's identity where that is a UUID, else a UUIDv8 of its SHA-256: 16 bytes whatever was sent.
    event_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    -- One event counts up to 10^15, to nine decimals.
    quantity numeric(24, 9) NOT NULL,
    recorded_at timestamptz NOT NULL,
    subject text NOT NULL DEFAULT '',
    -- The producer's identity as sent, where it was no UUID.
    event_name text,
    properties jsonb,
    CONSTRAINT usage_events_pkey PRIMARY KEY (organization_id, occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);
CALL tenancy.isolate('tenancy.usage_events');
CALL tenancy.open_to_ingest('tenancy.usage_events');
GRANT SELECT ON tenancy.usage_events TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.usage_events TO tenancy_ingest;

-- What the events of a quarter of an hour add up to, per series: a meter with one subject. A series of its own, with
-- the nil id, is the meter as a whole, so that a month of a tenant is at most 2,976 rows however many subjects it has.
-- Quarters of an hour in UTC, so that days come out right in Kolkata and Kathmandu. Kept for ever.
CREATE TABLE tenancy.usage_aggregates (
    organization_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    -- Nil, or a UUIDv8 of the SHA-256 of the subject.
    series_id uuid NOT NULL,
    bucket_start timestamptz NOT NULL,
    event_count bigint NOT NULL,
    quantity_sum numeric NOT NULL,
    CONSTRAINT usage_aggregates_pkey PRIMARY KEY (organization_id, meter_id, series_id, bucket_start),
    CONSTRAINT usage_aggregates_quarter CHECK (date_bin('15 minutes', bucket_start, 'epoch') = bucket_start)
) WITH (fillfactor = 80);
CALL tenancy.isolate('tenancy.usage_aggregates');
CALL tenancy.open_to_ingest('tenancy.usage_aggregates');
GRANT SELECT ON tenancy.usage_aggregates TO tenancy_app;
GRANT SELECT, INSERT, UPDATE ON tenancy.usage_aggregates TO tenancy_ingest;

-- Makes the weekly partitions that cover the given span, and tells which it made. Weeks begin on Monday, 00:00 UTC.
-- Partitions are reached through their parent only: no role is granted them, and they have forced row level security
-- without a policy, so that a grant made by mistake shows nothing.
-- Who waits for a lock of a table makes all that come later wait too: not for longer than two seconds, then again later.
CREATE FUNCTION tenancy.create_usage_partitions(covers_from timestamptz, covers_to timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    week timestamptz := date_trunc('week', covers_from, 'UTC');
    name text;
BEGIN
    IF covers_to - covers_from > interval '10 years' THEN
        RAISE EXCEPTION 'a span of more than ten years of partitions is a mistake';
    END IF;
    -- One replica at a time: the others wait here, then find the partitions made.
    PERFORM pg_advisory_xact_lock(hashtextextended('tenancy.usage_partitions', 0));
    WHILE week < covers_to LOOP
        name := 'usage_events_' || to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(format('tenancy.%I', name)) IS NULL THEN
            -- Made apart and then attached: ATTACH does not block the writers, CREATE … PARTITION OF does.
            EXECUTE format('CREATE TABLE tenancy.%I (LIKE tenancy.usage_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
            EXECUTE format('ALTER TABLE tenancy.%I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE tenancy.%I FORCE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE tenancy.usage_events ATTACH PARTITION tenancy.%I FOR VALUES FROM (%L) TO (%L)',
                name, week, week + interval '7 days');
            RETURN NEXT name;
        END IF;
        week := week + interval '7 days';
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION tenancy.create_usage_partitions(timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.create_usage_partitions(timestamptz, timestamptz) TO tenancy_platform;

-- Drops the weekly partitions that end at or before the given time, and tells which.
CREATE FUNCTION tenancy.drop_usage_partitions(ends_before timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tenancy.usage_partitions', 0));
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'tenancy.usage_events'::regclass
          AND to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' + interval '7 days' <= ends_before
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE tenancy.%I', name);
        RETURN NEXT name;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION tenancy.drop_usage_partitions(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenancy.drop_usage_partitions(timestamptz) TO tenancy_platform;
