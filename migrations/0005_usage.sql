-- Meters, usage events and their quarter-hour aggregates.
CREATE TABLE tenancy.meters (
    organization_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    key text NOT NULL,
    display_name text NOT NULL,
    description text NOT NULL DEFAULT '',
    unit text NOT NULL DEFAULT '',
    -- What is counted, and how. No role is granted the update of it: figures that were added up by one rule cannot follow
    -- another.
    aggregation text NOT NULL,
    value_property text,
    group_by text[] NOT NULL DEFAULT '{}',
    -- An array of {property, operator, values}.
    filter jsonb NOT NULL DEFAULT '[]',
    archive_time timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT meters_pkey PRIMARY KEY (organization_id, meter_id),
    -- Also of the archived ones: their figures stay, under their key.
    CONSTRAINT meters_key UNIQUE (organization_id, key),
    CONSTRAINT meters_aggregation
        CHECK (aggregation IN ('count', 'sum', 'min', 'max', 'avg', 'latest', 'unique_count')),
    CONSTRAINT meters_count_of_events CHECK (aggregation <> 'count' OR value_property IS NULL),
    CONSTRAINT meters_group_by CHECK (cardinality(group_by) <= 8),
    CONSTRAINT meters_filter CHECK (jsonb_typeof(filter) = 'array'),
    CONSTRAINT meters_organization_fkey FOREIGN KEY (organization_id)
        REFERENCES tenancy.organizations (organization_id)
);
CALL tenancy.isolate('tenancy.meters');
GRANT SELECT, INSERT ON tenancy.meters TO tenancy_app;
GRANT UPDATE (display_name, description, unit, archive_time, revision, update_time)
    ON tenancy.meters TO tenancy_app;

-- Meters that count for every organization (a reference table on Citus); the columns are those of tenancy.meters.
CREATE TABLE tenancy.platform_meters (
    meter_id uuid NOT NULL,
    key text NOT NULL,
    display_name text NOT NULL,
    description text NOT NULL DEFAULT '',
    unit text NOT NULL DEFAULT '',
    aggregation text NOT NULL,
    value_property text,
    group_by text[] NOT NULL DEFAULT '{}',
    filter jsonb NOT NULL DEFAULT '[]',
    archive_time timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT platform_meters_pkey PRIMARY KEY (meter_id),
    CONSTRAINT platform_meters_key UNIQUE (key),
    CONSTRAINT platform_meters_aggregation
        CHECK (aggregation IN ('count', 'sum', 'min', 'max', 'avg', 'latest', 'unique_count')),
    CONSTRAINT platform_meters_count_of_events CHECK (aggregation <> 'count' OR value_property IS NULL),
    CONSTRAINT platform_meters_group_by CHECK (cardinality(group_by) <= 8),
    CONSTRAINT platform_meters_filter CHECK (jsonb_typeof(filter) = 'array')
);
GRANT SELECT ON tenancy.platform_meters TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.platform_meters TO tenancy_platform;
GRANT UPDATE (display_name, description, unit, archive_time, revision, update_time)
    ON tenancy.platform_meters TO tenancy_platform;

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
    -- The finest series that it counts for beside the meter as a whole; NULL where it has neither subject nor groups.
    series_id uuid,
    -- For a meter that counts distinct values: 16 bytes of the SHA-256 of this event's.
    value_id uuid,
    CONSTRAINT usage_events_pkey PRIMARY KEY (organization_id, occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);
CALL tenancy.isolate('tenancy.usage_events');
CALL tenancy.open_to_ingest('tenancy.usage_events');
GRANT SELECT ON tenancy.usage_events TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.usage_events TO tenancy_ingest;

-- The series of a meter, by what their ids stand for. An event counts for its meter as a whole (the nil id, which has no
-- row here); where the meter groups by properties, for the series of their values; where it has a subject, for the
-- series of that subject with those values. A month of a tenant by group then reads as many rows as there are groups,
-- however many subjects. A row is written before the first event of its series, and kept for ever.
CREATE TABLE tenancy.usage_series (
    organization_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    -- A UUIDv8 of the SHA-256 of subject and group_values.
    series_id uuid NOT NULL,
    -- Empty: the events of all subjects.
    subject text NOT NULL,
    -- In the order of the meter's group_by.
    group_values text[] NOT NULL,
    -- For a series of one subject of a meter that groups: the series of the same values and all subjects.
    parent_series_id uuid,
    CONSTRAINT usage_series_pkey PRIMARY KEY (organization_id, meter_id, series_id),
    CONSTRAINT usage_series_parent CHECK ((parent_series_id IS NOT NULL) = (subject <> '' AND group_values <> '{}')),
    CONSTRAINT usage_series_not_whole CHECK (subject <> '' OR group_values <> '{}')
);
CREATE INDEX usage_series_subject ON tenancy.usage_series (organization_id, meter_id, subject);
CALL tenancy.isolate('tenancy.usage_series');
CALL tenancy.open_to_ingest('tenancy.usage_series');
GRANT SELECT ON tenancy.usage_series TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.usage_series TO tenancy_ingest;

-- What the events of a quarter of an hour add up to, series by series, so that a month of a tenant is at most 2,976 rows
-- however many events it has. Quarters of an hour in UTC, so that days come out right in Kolkata and Kathmandu. Kept for
-- ever.
CREATE TABLE tenancy.usage_aggregates (
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
    CONSTRAINT usage_aggregates_pkey PRIMARY KEY (organization_id, meter_id, series_id, bucket_start),
    CONSTRAINT usage_aggregates_quarter CHECK (date_bin('15 minutes', bucket_start, 'epoch') = bucket_start),
    CONSTRAINT usage_aggregates_latest
        CHECK ((latest_at IS NULL) = (latest_event_id IS NULL) AND (latest_at IS NULL) = (latest_quantity IS NULL))
) WITH (fillfactor = 80);
CALL tenancy.isolate('tenancy.usage_aggregates');
CALL tenancy.open_to_ingest('tenancy.usage_aggregates');
GRANT SELECT ON tenancy.usage_aggregates TO tenancy_app;
GRANT SELECT, INSERT, UPDATE ON tenancy.usage_aggregates TO tenancy_ingest;

-- The distinct values that a meter of unique counts saw in a quarter of an hour, series by series: exact in every range,
-- since the union of sets is a set. Kept for ever, as the aggregates.
CREATE TABLE tenancy.usage_unique_values (
    organization_id uuid NOT NULL,
    meter_id uuid NOT NULL,
    series_id uuid NOT NULL,
    bucket_start timestamptz NOT NULL,
    -- As in usage_events.
    value_id uuid NOT NULL,
    CONSTRAINT usage_unique_values_pkey PRIMARY KEY (organization_id, meter_id, series_id, bucket_start, value_id)
);
CALL tenancy.isolate('tenancy.usage_unique_values');
CALL tenancy.open_to_ingest('tenancy.usage_unique_values');
GRANT SELECT ON tenancy.usage_unique_values TO tenancy_app;
GRANT SELECT, INSERT ON tenancy.usage_unique_values TO tenancy_ingest;

-- Events that were voided: they stay among the raw events, so that their identity stays taken, and no longer count.
CREATE TABLE tenancy.usage_voids (
    organization_id uuid NOT NULL,
    -- The identity of the event. No foreign key: the void outlives the partition of its event.
    occurred_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    reason text NOT NULL,
    void_time timestamptz NOT NULL,
    CONSTRAINT usage_voids_pkey PRIMARY KEY (organization_id, occurred_at, event_id)
);
CALL tenancy.isolate('tenancy.usage_voids');
GRANT SELECT, INSERT ON tenancy.usage_voids TO tenancy_app;
-- A void takes its event out of the figures, in the scope of its organization.
GRANT UPDATE, DELETE ON tenancy.usage_aggregates TO tenancy_app;
GRANT DELETE ON tenancy.usage_unique_values TO tenancy_app;

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
