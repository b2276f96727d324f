-- The rules of the rate limit service, a row a domain (a reference table on Citus).
CREATE TABLE tenancy.rate_limit_domains (
    domain text NOT NULL,
    -- A tree of rules, each with its nested ones.
    rules jsonb NOT NULL,
    -- Counts the changes; the etag is made of it.
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT rate_limit_domains_pkey PRIMARY KEY (domain),
    CONSTRAINT rate_limit_domains_rules CHECK (jsonb_typeof(rules) = 'array')
);
GRANT SELECT, INSERT, DELETE ON tenancy.rate_limit_domains TO tenancy_platform;
GRANT UPDATE (rules, revision, update_time) ON tenancy.rate_limit_domains TO tenancy_platform;
