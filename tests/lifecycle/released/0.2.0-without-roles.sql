--
-- PostgreSQL database dump
--


-- Dumped from database version 15.20 (Debian 15.20-0+deb12u1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: infinite_pages_cache; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS infinite_pages_cache WITH SCHEMA public;


--
-- Name: EXTENSION infinite_pages_cache; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION infinite_pages_cache IS 'production cache for AI-generated content: per-tenant lookups, time to live, savings, self-managing monthly partitions';


SET default_tablespace = '';

--
-- Name: cache_audit_archive; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_archive (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
)
PARTITION BY RANGE ("timestamp");


ALTER TABLE public.cache_audit_archive OWNER TO postgres;

--
-- Name: TABLE cache_audit_archive; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_audit_archive IS 'Months of cache_audit_log that archive_audit_logs() has moved here';


--
-- Name: cache_audit_log; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
)
PARTITION BY RANGE ("timestamp");


ALTER TABLE public.cache_audit_log OWNER TO postgres;

--
-- Name: TABLE cache_audit_log; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_audit_log IS 'Audit log of infinite_pages_cache, a partition for each month of timestamp (UTC)';


--
-- Name: COLUMN cache_audit_log.user_id; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_audit_log.user_id IS 'User whose entry it is';


--
-- Name: COLUMN cache_audit_log.role; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_audit_log.role IS 'Role that acted';


--
-- Name: COLUMN cache_audit_log.acting_user_id; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_audit_log.acting_user_id IS 'User whom the session acted for, as cache_current_user_id() says; NULL when it had no user';


SET default_table_access_method = heap;

--
-- Name: cache_audit_log_2026_01; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log_2026_01 (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
);


ALTER TABLE public.cache_audit_log_2026_01 OWNER TO postgres;

--
-- Name: cache_audit_log_2026_03; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log_2026_03 (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
);


ALTER TABLE public.cache_audit_log_2026_03 OWNER TO postgres;

--
-- Name: cache_audit_log_2026_11; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log_2026_11 (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
);


ALTER TABLE public.cache_audit_log_2026_11 OWNER TO postgres;

--
-- Name: cache_audit_log_2026_12; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log_2026_12 (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
);


ALTER TABLE public.cache_audit_log_2026_12 OWNER TO postgres;

--
-- Name: cache_audit_log_2027_01; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log_2027_01 (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
);


ALTER TABLE public.cache_audit_log_2027_01 OWNER TO postgres;

--
-- Name: cache_audit_log_2027_02; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_audit_log_2027_02 (
    id bigint NOT NULL,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ip_address inet,
    user_agent text,
    success boolean DEFAULT true NOT NULL,
    role name,
    acting_user_id uuid
);


ALTER TABLE public.cache_audit_log_2027_02 OWNER TO postgres;

--
-- Name: cache_audit_log_id_seq; Type: SEQUENCE; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.cache_audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: cache_content_policies; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_content_policies (
    content_type text NOT NULL,
    ttl interval,
    stale_ttl interval DEFAULT '00:00:00'::interval NOT NULL,
    token_cost numeric DEFAULT 1 NOT NULL,
    similarity_threshold numeric DEFAULT 0.75 NOT NULL,
    max_entries integer,
    priority_tier integer DEFAULT 3 NOT NULL,
    CONSTRAINT cache_content_policies_max_entries_check CHECK ((max_entries > 0)),
    CONSTRAINT cache_content_policies_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT cache_content_policies_similarity_threshold_check CHECK (((similarity_threshold >= (0)::numeric) AND (similarity_threshold <= (1)::numeric))),
    CONSTRAINT cache_content_policies_stale_ttl_check CHECK ((stale_ttl >= '00:00:00'::interval)),
    CONSTRAINT cache_content_policies_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT cache_content_policies_ttl_check CHECK ((ttl > '00:00:00'::interval))
);


ALTER TABLE public.cache_content_policies OWNER TO postgres;

--
-- Name: TABLE cache_content_policies; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_content_policies IS 'Defaults for each type of content; * is for all others';


--
-- Name: COLUMN cache_content_policies.ttl; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_content_policies.ttl IS 'Time to live of a new entry; NULL = for ever';


--
-- Name: COLUMN cache_content_policies.stale_ttl; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_content_policies.stale_ttl IS 'How long past its expiry an entry may still be served while it is generated anew';


--
-- Name: COLUMN cache_content_policies.token_cost; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_content_policies.token_cost IS 'What generating one answer costs, in the application''s own unit';


--
-- Name: COLUMN cache_content_policies.max_entries; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_content_policies.max_entries IS 'Most entries of this type that a user keeps; NULL = no limit';


--
-- Name: cache_entry_summary; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_entry_summary (
    partition_name text NOT NULL,
    content_type text NOT NULL,
    entries bigint NOT NULL,
    expired_entries bigint NOT NULL,
    high_priority_entries bigint NOT NULL,
    hits numeric NOT NULL,
    tokens_saved numeric NOT NULL,
    last_activity timestamp with time zone,
    measured_at timestamp with time zone NOT NULL
)
WITH (fillfactor='50');


ALTER TABLE public.cache_entry_summary OWNER TO postgres;

--
-- Name: TABLE cache_entry_summary; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_entry_summary IS 'Entries of each partition and content type at measured_at, for the reports of a large cache; hits are kept up to date';


--
-- Name: cache_maintenance_runs; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_maintenance_runs (
    run_at timestamp with time zone NOT NULL,
    step text NOT NULL,
    status text NOT NULL,
    affected bigint DEFAULT 0 NOT NULL,
    duration_ms numeric DEFAULT 0 NOT NULL,
    detail text,
    role name NOT NULL
);


ALTER TABLE public.cache_maintenance_runs OWNER TO postgres;

--
-- Name: TABLE cache_maintenance_runs; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_maintenance_runs IS 'Steps of maintenance runs; rows older than infinite_pages_cache.maintenance_log_retention are deleted by the next run';


--
-- Name: cache_statistics_hourly; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_statistics_hourly (
    hour timestamp with time zone NOT NULL,
    content_type text NOT NULL,
    hits bigint DEFAULT 0 NOT NULL,
    misses bigint DEFAULT 0 NOT NULL,
    stale bigint DEFAULT 0 NOT NULL,
    upserts bigint DEFAULT 0 NOT NULL,
    invalidations bigint DEFAULT 0 NOT NULL,
    expirations bigint DEFAULT 0 NOT NULL,
    tokens_spent numeric DEFAULT 0 NOT NULL,
    tokens_saved numeric DEFAULT 0 NOT NULL,
    untracked_hits bigint DEFAULT 0 NOT NULL,
    audit_lost bigint DEFAULT 0 NOT NULL,
    lookup_us bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    upsert_us bigint[] DEFAULT '{}'::bigint[] NOT NULL
)
WITH (fillfactor='70');


ALTER TABLE public.cache_statistics_hourly OWNER TO postgres;

--
-- Name: TABLE cache_statistics_hourly; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_statistics_hourly IS 'What was counted in each hour (UTC) for each content type; rows older than infinite_pages_cache.statistics_retention are deleted by maintenance';


--
-- Name: COLUMN cache_statistics_hourly.content_type; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_statistics_hourly.content_type IS 'Empty, which no type can be, for all types without counters of their own (infinite_pages_cache.max_tracked_content_types)';


--
-- Name: COLUMN cache_statistics_hourly.stale; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_statistics_hourly.stale IS 'Those of the misses that found an expired entry';


--
-- Name: COLUMN cache_statistics_hourly.untracked_hits; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_statistics_hourly.untracked_hits IS 'Those of the hits that no entry got, for want of shared memory (infinite_pages_cache.max_tracked_entries)';


--
-- Name: COLUMN cache_statistics_hourly.audit_lost; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_statistics_hourly.audit_lost IS 'Audited lookups that gave way to newer ones (infinite_pages_cache.audit_buffer_size)';


--
-- Name: COLUMN cache_statistics_hourly.lookup_us; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_statistics_hourly.lookup_us IS 'How long calls took: buckets for cache_latency_ms()';


--
-- Name: COLUMN cache_statistics_hourly.upsert_us; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.cache_statistics_hourly.upsert_us IS 'How long calls took: buckets for cache_latency_ms()';


--
-- Name: cache_user_summary; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.cache_user_summary (
    user_id uuid NOT NULL,
    entries bigint NOT NULL,
    content_types bigint NOT NULL,
    hits numeric NOT NULL,
    tokens_saved numeric NOT NULL,
    avg_reuse_score numeric,
    last_accessed timestamp with time zone,
    measured_at timestamp with time zone NOT NULL
)
WITH (fillfactor='50');


ALTER TABLE public.cache_user_summary OWNER TO postgres;

--
-- Name: TABLE cache_user_summary; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.cache_user_summary IS 'Entries of each user at measured_at, for the reports of a large cache; hits are kept up to date';


--
-- Name: infinite_pages_cache_partitioned; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_partitioned (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
PARTITION BY RANGE (created_at);
ALTER TABLE ONLY public.infinite_pages_cache_partitioned ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_partitioned ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_partitioned OWNER TO postgres;

--
-- Name: TABLE infinite_pages_cache_partitioned; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON TABLE public.infinite_pages_cache_partitioned IS 'ours';


--
-- Name: COLUMN infinite_pages_cache_partitioned.priority_tier; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.infinite_pages_cache_partitioned.priority_tier IS '1 = high ... 3 = low: the order in which entries are kept when a user has too many';


--
-- Name: COLUMN infinite_pages_cache_partitioned.token_cost; Type: COMMENT; Schema: public; Owner: postgres
--

COMMENT ON COLUMN public.infinite_pages_cache_partitioned.token_cost IS 'What generating the answer cost, in the application''s own unit, to a millionth';


--
-- Name: infinite_pages_cache_2025_12; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_2025_12 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
WITH (fillfactor='75', toast_tuple_target='128');
ALTER TABLE ONLY public.infinite_pages_cache_2025_12 ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_2025_12 ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_2025_12 OWNER TO postgres;

--
-- Name: infinite_pages_cache_2026_02; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_2026_02 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
WITH (fillfactor='75', toast_tuple_target='128');
ALTER TABLE ONLY public.infinite_pages_cache_2026_02 ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_2026_02 ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_2026_02 OWNER TO postgres;

--
-- Name: infinite_pages_cache_2026_11; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_2026_11 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
WITH (fillfactor='75', toast_tuple_target='128');
ALTER TABLE ONLY public.infinite_pages_cache_2026_11 ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_2026_11 ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_2026_11 OWNER TO postgres;

--
-- Name: infinite_pages_cache_2026_12; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_2026_12 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
WITH (fillfactor='75', toast_tuple_target='128');
ALTER TABLE ONLY public.infinite_pages_cache_2026_12 ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_2026_12 ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_2026_12 OWNER TO postgres;

--
-- Name: infinite_pages_cache_2027_01; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_2027_01 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
WITH (fillfactor='75', toast_tuple_target='128');
ALTER TABLE ONLY public.infinite_pages_cache_2027_01 ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_2027_01 ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_2027_01 OWNER TO postgres;

--
-- Name: infinite_pages_cache_2027_02; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.infinite_pages_cache_2027_02 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL,
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}'::jsonb,
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}'::jsonb,
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (now() + '7 days'::interval) NOT NULL,
    hit_count bigint DEFAULT 0 NOT NULL,
    adaptation_count bigint DEFAULT 0 NOT NULL,
    token_cost_saved bigint DEFAULT 0 NOT NULL,
    last_accessed timestamp with time zone DEFAULT now(),
    access_frequency integer DEFAULT 1,
    priority_tier integer DEFAULT 3 NOT NULL,
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6),
    CONSTRAINT infinite_pages_cache_partitioned_access_frequency_check CHECK ((access_frequency >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_adaptation_count_check CHECK ((adaptation_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_content_type_check CHECK (((octet_length(content_type) >= 1) AND (octet_length(content_type) <= 255))),
    CONSTRAINT infinite_pages_cache_partitioned_hit_count_check CHECK ((hit_count >= 0)),
    CONSTRAINT infinite_pages_cache_partitioned_priority_tier_check CHECK (((priority_tier >= 1) AND (priority_tier <= 3))),
    CONSTRAINT infinite_pages_cache_partitioned_reuse_score_check CHECK (((reuse_score >= (0)::numeric) AND (reuse_score <= (10)::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_check CHECK (((token_cost >= (0)::numeric) AND (token_cost <= '1000000000'::numeric))),
    CONSTRAINT infinite_pages_cache_partitioned_token_cost_saved_check CHECK ((token_cost_saved >= 0))
)
WITH (fillfactor='75', toast_tuple_target='128');
ALTER TABLE ONLY public.infinite_pages_cache_2027_02 ALTER COLUMN content SET COMPRESSION lz4;
ALTER TABLE ONLY public.infinite_pages_cache_2027_02 ALTER COLUMN metadata SET STORAGE MAIN;


ALTER TABLE public.infinite_pages_cache_2027_02 OWNER TO postgres;

--
-- Name: cache_audit_log_2026_01; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_archive ATTACH PARTITION public.cache_audit_log_2026_01 FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00');


--
-- Name: cache_audit_log_2026_03; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log ATTACH PARTITION public.cache_audit_log_2026_03 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');


--
-- Name: cache_audit_log_2026_11; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log ATTACH PARTITION public.cache_audit_log_2026_11 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');


--
-- Name: cache_audit_log_2026_12; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log ATTACH PARTITION public.cache_audit_log_2026_12 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');


--
-- Name: cache_audit_log_2027_01; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log ATTACH PARTITION public.cache_audit_log_2027_01 FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00');


--
-- Name: cache_audit_log_2027_02; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log ATTACH PARTITION public.cache_audit_log_2027_02 FOR VALUES FROM ('2027-02-01 00:00:00+00') TO ('2027-03-01 00:00:00+00');


--
-- Name: infinite_pages_cache_2025_12; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned ATTACH PARTITION public.infinite_pages_cache_2025_12 FOR VALUES FROM ('2025-12-01 00:00:00+00') TO ('2026-01-01 00:00:00+00');


--
-- Name: infinite_pages_cache_2026_02; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned ATTACH PARTITION public.infinite_pages_cache_2026_02 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');


--
-- Name: infinite_pages_cache_2026_11; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned ATTACH PARTITION public.infinite_pages_cache_2026_11 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');


--
-- Name: infinite_pages_cache_2026_12; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned ATTACH PARTITION public.infinite_pages_cache_2026_12 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');


--
-- Name: infinite_pages_cache_2027_01; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned ATTACH PARTITION public.infinite_pages_cache_2027_01 FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00');


--
-- Name: infinite_pages_cache_2027_02; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned ATTACH PARTITION public.infinite_pages_cache_2027_02 FOR VALUES FROM ('2027-02-01 00:00:00+00') TO ('2027-03-01 00:00:00+00');


--
-- Data for Name: cache_audit_log_2026_01; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_audit_log_2026_01 (id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role, acting_user_id) FROM stdin;
1	a11ce000-0000-4000-8000-000000000001	k0	setting	upsert	2026-01-31 23:59:59.999999+00	\N	\N	t	postgres	\N
\.


--
-- Data for Name: cache_audit_log_2026_03; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_audit_log_2026_03 (id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role, acting_user_id) FROM stdin;
2	b0b00000-0000-4000-8000-000000000002	bob	tone	upsert	2026-03-31 23:59:59+00	\N	\N	t	postgres	\N
\.


--
-- Data for Name: cache_audit_log_2026_11; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_audit_log_2026_11 (id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role, acting_user_id) FROM stdin;
3	a11ce000-0000-4000-8000-000000000001	upserted	tone	upsert	2026-11-30 09:22:44.333277+00	\N	\N	t	postgres	\N
\.


--
-- Data for Name: cache_audit_log_2026_12; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_audit_log_2026_12 (id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role, acting_user_id) FROM stdin;
\.


--
-- Data for Name: cache_audit_log_2027_01; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_audit_log_2027_01 (id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role, acting_user_id) FROM stdin;
\.


--
-- Data for Name: cache_audit_log_2027_02; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_audit_log_2027_02 (id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role, acting_user_id) FROM stdin;
\.


--
-- Data for Name: cache_content_policies; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_content_policies (content_type, ttl, stale_ttl, token_cost, similarity_threshold, max_entries, priority_tier) FROM stdin;
*	7 days	00:00:00	1	0.75	\N	3
story_foundation	30 days	00:00:00	8	0.75	200	3
main_characters	21 days	00:00:00	2	0.70	1000	3
setting	21 days	00:00:00	1.5	0.65	400	3
plot_structure	14 days	00:00:00	2	0.75	300	3
themes	30 days	00:00:00	1	0.60	600	3
target_audience	30 days	00:00:00	0.5	0.80	100	3
chapter_outline	7 days	00:00:00	2	0.70	400	3
chapter_content	3 days	00:00:00	5	0.75	1000	3
chapter_summary	7 days	00:00:00	1	0.80	500	3
key_events	5 days	00:00:00	0.5	0.75	300	3
character_development	10 days	00:00:00	1	0.80	400	3
foreshadowing	3 days	00:00:00	0.5	0.70	200	3
improvement_general	2 days	00:00:00	3	0.85	200	3
improvement_dialogue	3 days	00:00:00	2	0.80	200	3
improvement_description	3 days	00:00:00	2	0.80	200	3
improvement_pacing	2 days	00:00:00	2	0.85	200	3
improvement_character	5 days	00:00:00	2	0.80	200	3
improvement_plot	2 days	00:00:00	3	0.85	200	3
improvement_style	7 days	00:00:00	2	0.75	200	3
improvement_grammar	1 day	00:00:00	1	0.90	200	3
analysis_comprehensive	5 days	00:00:00	3	0.75	100	3
analysis_style	10 days	00:00:00	2	0.80	100	3
analysis_structure	7 days	00:00:00	2	0.80	100	3
analysis_quality	3 days	00:00:00	2	0.75	100	3
analysis_readability	14 days	00:00:00	1	0.85	100	3
analysis_genre	21 days	00:00:00	1	0.70	100	3
export_pdf	14 days	00:00:00	1	0.95	50	3
export_epub	14 days	00:00:00	1	0.95	50	3
export_docx	14 days	00:00:00	1	0.95	50	3
tone	90 days	00:00:00	0.5	0.65	\N	3
Gedicht	\N	00:00:00	2.5	0.75	\N	3
\.


--
-- Data for Name: cache_entry_summary; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_entry_summary (partition_name, content_type, entries, expired_entries, high_priority_entries, hits, tokens_saved, last_activity, measured_at) FROM stdin;
\.


--
-- Data for Name: cache_maintenance_runs; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_maintenance_runs (run_at, step, status, affected, duration_ms, detail, role) FROM stdin;
\.


--
-- Data for Name: cache_statistics_hourly; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_statistics_hourly (hour, content_type, hits, misses, stale, upserts, invalidations, expirations, tokens_spent, tokens_saved, untracked_hits, audit_lost, lookup_us, upsert_us) FROM stdin;
2026-02-15 12:00:00+00	setting	7	3	0	0	0	0	0	0	0	0	{}	{}
\.


--
-- Data for Name: cache_user_summary; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.cache_user_summary (user_id, entries, content_types, hits, tokens_saved, avg_reuse_score, last_accessed, measured_at) FROM stdin;
\.


--
-- Data for Name: infinite_pages_cache_2025_12; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.infinite_pages_cache_2025_12 (id, cache_key, content, content_type, user_id, story_id, metadata, foundation_dependency, prompt_template, prompt_variables, semantic_similarity_hash, reuse_score, created_at, expires_at, hit_count, adaptation_count, token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, token_cost) FROM stdin;
00000000-0000-4000-8000-000000000000	k0	{"n": 0}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	0	0	0	2025-12-15 00:00:00+00	1	3	f	0.123456
00000000-0000-4000-8000-000000000003	k3	{"n": 3}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	3	0	0	2025-12-15 00:00:00+00	1	3	f	3.123456
00000000-0000-4000-8000-000000000006	k6	{"n": 6}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	6	0	0	2025-12-15 00:00:00+00	1	3	f	6.123456
00000000-0000-4000-8000-000000000009	k9	{"n": 9}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	9	0	0	2025-12-15 00:00:00+00	1	3	f	9.123456
00000000-0000-4000-8000-000000000012	k12	{"n": 12}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	12	0	0	2025-12-15 00:00:00+00	1	3	f	12.123456
00000000-0000-4000-8000-000000000015	k15	{"n": 15}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	15	0	0	2025-12-15 00:00:00+00	1	3	f	15.123456
00000000-0000-4000-8000-000000000018	k18	{"n": 18}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2025-12-15 00:00:00+00	infinity	18	0	0	2025-12-15 00:00:00+00	1	3	f	18.123456
\.


--
-- Data for Name: infinite_pages_cache_2026_02; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.infinite_pages_cache_2026_02 (id, cache_key, content, content_type, user_id, story_id, metadata, foundation_dependency, prompt_template, prompt_variables, semantic_similarity_hash, reuse_score, created_at, expires_at, hit_count, adaptation_count, token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, token_cost) FROM stdin;
00000000-0000-4000-8000-000000000001	k1	{"n": 1}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	1	0	0	2026-02-15 00:00:00+00	1	3	f	1.123456
00000000-0000-4000-8000-000000000004	k4	{"n": 4}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	4	0	0	2026-02-15 00:00:00+00	1	3	f	4.123456
00000000-0000-4000-8000-000000000007	k7	{"n": 7}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	7	0	0	2026-02-15 00:00:00+00	1	3	f	7.123456
00000000-0000-4000-8000-000000000010	k10	{"n": 10}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	10	0	0	2026-02-15 00:00:00+00	1	3	f	10.123456
00000000-0000-4000-8000-000000000013	k13	{"n": 13}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	13	0	0	2026-02-15 00:00:00+00	1	3	f	13.123456
00000000-0000-4000-8000-000000000016	k16	{"n": 16}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	16	0	0	2026-02-15 00:00:00+00	1	3	f	16.123456
00000000-0000-4000-8000-000000000019	k19	{"n": 19}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-02-15 00:00:00+00	infinity	19	0	0	2026-02-15 00:00:00+00	1	3	f	19.123456
00000000-0000-4000-8000-0000000000ff	expired	"é"	setting	b0b00000-0000-4000-8000-000000000002	\N	{}	\N	\N	{}	\N	5.0	2026-02-01 00:00:00+00	2026-02-02 00:00:00+00	0	0	0	2026-02-01 00:00:00+00	1	3	f	\N
00000000-0000-4000-8000-0000000000fe	bob	"his"	tone	b0b00000-0000-4000-8000-000000000002	\N	{}	\N	\N	{}	\N	5.0	2026-02-01 00:00:00+00	infinity	0	0	0	2026-02-01 00:00:00+00	1	3	f	\N
\.


--
-- Data for Name: infinite_pages_cache_2026_11; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.infinite_pages_cache_2026_11 (id, cache_key, content, content_type, user_id, story_id, metadata, foundation_dependency, prompt_template, prompt_variables, semantic_similarity_hash, reuse_score, created_at, expires_at, hit_count, adaptation_count, token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, token_cost) FROM stdin;
00000000-0000-4000-8000-000000000002	k2	{"n": 2}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-11-15 00:00:00+00	infinity	2	0	0	2026-11-15 00:00:00+00	1	3	f	2.123456
00000000-0000-4000-8000-000000000005	k5	{"n": 5}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-11-15 00:00:00+00	infinity	5	0	0	2026-11-15 00:00:00+00	1	3	f	5.123456
00000000-0000-4000-8000-000000000008	k8	{"n": 8}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-11-15 00:00:00+00	infinity	8	0	0	2026-11-15 00:00:00+00	1	3	f	8.123456
00000000-0000-4000-8000-000000000011	k11	{"n": 11}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-11-15 00:00:00+00	infinity	11	0	0	2026-11-15 00:00:00+00	1	3	f	11.123456
00000000-0000-4000-8000-000000000014	k14	{"n": 14}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-11-15 00:00:00+00	infinity	14	0	0	2026-11-15 00:00:00+00	1	3	f	14.123456
00000000-0000-4000-8000-000000000017	k17	{"n": 17}	setting	a11ce000-0000-4000-8000-000000000001	\N	{"genre": "noir"}	\N	\N	{}	\N	5.0	2026-11-15 00:00:00+00	infinity	17	0	0	2026-11-15 00:00:00+00	1	3	f	17.123456
03f74752-a1ea-4197-b4ab-bbba75f94af7	upserted	1	tone	a11ce000-0000-4000-8000-000000000001	\N	{}	\N	\N	{}	\N	5.0	2026-11-30 09:22:44.330364+00	2027-02-28 09:22:44.330364+00	0	0	0	2026-11-30 09:22:44.330364+00	1	3	f	0.500000
\.


--
-- Data for Name: infinite_pages_cache_2026_12; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.infinite_pages_cache_2026_12 (id, cache_key, content, content_type, user_id, story_id, metadata, foundation_dependency, prompt_template, prompt_variables, semantic_similarity_hash, reuse_score, created_at, expires_at, hit_count, adaptation_count, token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, token_cost) FROM stdin;
\.


--
-- Data for Name: infinite_pages_cache_2027_01; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.infinite_pages_cache_2027_01 (id, cache_key, content, content_type, user_id, story_id, metadata, foundation_dependency, prompt_template, prompt_variables, semantic_similarity_hash, reuse_score, created_at, expires_at, hit_count, adaptation_count, token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, token_cost) FROM stdin;
\.


--
-- Data for Name: infinite_pages_cache_2027_02; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.infinite_pages_cache_2027_02 (id, cache_key, content, content_type, user_id, story_id, metadata, foundation_dependency, prompt_template, prompt_variables, semantic_similarity_hash, reuse_score, created_at, expires_at, hit_count, adaptation_count, token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, token_cost) FROM stdin;
\.


--
-- Name: cache_audit_log_id_seq; Type: SEQUENCE SET; Schema: public; Owner: postgres
--

SELECT pg_catalog.setval('public.cache_audit_log_id_seq', 3, true);


--
-- Name: cache_audit_log_2026_01 cache_audit_log_2026_01_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log_2026_01
    ADD CONSTRAINT cache_audit_log_2026_01_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_audit_log cache_audit_log_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log
    ADD CONSTRAINT cache_audit_log_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_audit_log_2026_03 cache_audit_log_2026_03_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log_2026_03
    ADD CONSTRAINT cache_audit_log_2026_03_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_audit_log_2026_11 cache_audit_log_2026_11_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log_2026_11
    ADD CONSTRAINT cache_audit_log_2026_11_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_audit_log_2026_12 cache_audit_log_2026_12_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log_2026_12
    ADD CONSTRAINT cache_audit_log_2026_12_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_audit_log_2027_01 cache_audit_log_2027_01_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log_2027_01
    ADD CONSTRAINT cache_audit_log_2027_01_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_audit_log_2027_02 cache_audit_log_2027_02_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_audit_log_2027_02
    ADD CONSTRAINT cache_audit_log_2027_02_pkey PRIMARY KEY (id, "timestamp");


--
-- Name: cache_content_policies cache_content_policies_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_content_policies
    ADD CONSTRAINT cache_content_policies_pkey PRIMARY KEY (content_type);


--
-- Name: cache_entry_summary cache_entry_summary_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_entry_summary
    ADD CONSTRAINT cache_entry_summary_pkey PRIMARY KEY (partition_name, content_type);


--
-- Name: cache_maintenance_runs cache_maintenance_runs_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_maintenance_runs
    ADD CONSTRAINT cache_maintenance_runs_pkey PRIMARY KEY (run_at, step);


--
-- Name: cache_statistics_hourly cache_statistics_hourly_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_statistics_hourly
    ADD CONSTRAINT cache_statistics_hourly_pkey PRIMARY KEY (hour, content_type);


--
-- Name: cache_user_summary cache_user_summary_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.cache_user_summary
    ADD CONSTRAINT cache_user_summary_pkey PRIMARY KEY (user_id);


--
-- Name: infinite_pages_cache_partitioned infinite_pages_cache_partitioned_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_partitioned
    ADD CONSTRAINT infinite_pages_cache_partitioned_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: infinite_pages_cache_2025_12 infinite_pages_cache_2025_12_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_2025_12
    ADD CONSTRAINT infinite_pages_cache_2025_12_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: infinite_pages_cache_2026_02 infinite_pages_cache_2026_02_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_2026_02
    ADD CONSTRAINT infinite_pages_cache_2026_02_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: infinite_pages_cache_2026_11 infinite_pages_cache_2026_11_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_2026_11
    ADD CONSTRAINT infinite_pages_cache_2026_11_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: infinite_pages_cache_2026_12 infinite_pages_cache_2026_12_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_2026_12
    ADD CONSTRAINT infinite_pages_cache_2026_12_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: infinite_pages_cache_2027_01 infinite_pages_cache_2027_01_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_2027_01
    ADD CONSTRAINT infinite_pages_cache_2027_01_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: infinite_pages_cache_2027_02 infinite_pages_cache_2027_02_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.infinite_pages_cache_2027_02
    ADD CONSTRAINT infinite_pages_cache_2027_02_pkey PRIMARY KEY (id, user_id, created_at);


--
-- Name: by_story; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX by_story ON ONLY public.infinite_pages_cache_partitioned USING btree (story_id);


--
-- Name: cache_audit_log_2026_01_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_2026_01_timestamp_idx ON public.cache_audit_log_2026_01 USING brin ("timestamp");


--
-- Name: cache_audit_log_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_timestamp_idx ON ONLY public.cache_audit_log USING brin ("timestamp");


--
-- Name: cache_audit_log_2026_03_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_2026_03_timestamp_idx ON public.cache_audit_log_2026_03 USING brin ("timestamp");


--
-- Name: cache_audit_log_2026_11_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_2026_11_timestamp_idx ON public.cache_audit_log_2026_11 USING brin ("timestamp");


--
-- Name: cache_audit_log_2026_12_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_2026_12_timestamp_idx ON public.cache_audit_log_2026_12 USING brin ("timestamp");


--
-- Name: cache_audit_log_2027_01_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_2027_01_timestamp_idx ON public.cache_audit_log_2027_01 USING brin ("timestamp");


--
-- Name: cache_audit_log_2027_02_timestamp_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX cache_audit_log_2027_02_timestamp_idx ON public.cache_audit_log_2027_02 USING brin ("timestamp");


--
-- Name: in_one_month; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX in_one_month ON public.infinite_pages_cache_2026_02 USING gin (metadata);


--
-- Name: infinite_pages_cache_partitioned_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_partitioned_expires_at_idx ON ONLY public.infinite_pages_cache_partitioned USING btree (expires_at);


--
-- Name: infinite_pages_cache_2025_12_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2025_12_expires_at_idx ON public.infinite_pages_cache_2025_12 USING btree (expires_at);


--
-- Name: infinite_pages_cache_2025_12_story_id_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2025_12_story_id_idx ON public.infinite_pages_cache_2025_12 USING btree (story_id);


--
-- Name: infinite_pages_cache_2025_12_user_id_cache_entry_digest_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE UNIQUE INDEX infinite_pages_cache_2025_12_user_id_cache_entry_digest_idx ON public.infinite_pages_cache_2025_12 USING btree (user_id, public.cache_entry_digest(content_type, cache_key));


--
-- Name: infinite_pages_cache_partitioned_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_partitioned_user_id_content_type_idx ON ONLY public.infinite_pages_cache_partitioned USING btree (user_id, content_type);


--
-- Name: infinite_pages_cache_2025_12_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2025_12_user_id_content_type_idx ON public.infinite_pages_cache_2025_12 USING btree (user_id, content_type);


--
-- Name: infinite_pages_cache_2026_02_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_02_expires_at_idx ON public.infinite_pages_cache_2026_02 USING btree (expires_at);


--
-- Name: infinite_pages_cache_2026_02_story_id_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_02_story_id_idx ON public.infinite_pages_cache_2026_02 USING btree (story_id);


--
-- Name: infinite_pages_cache_2026_02_user_id_cache_entry_digest_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE UNIQUE INDEX infinite_pages_cache_2026_02_user_id_cache_entry_digest_idx ON public.infinite_pages_cache_2026_02 USING btree (user_id, public.cache_entry_digest(content_type, cache_key));


--
-- Name: infinite_pages_cache_2026_02_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_02_user_id_content_type_idx ON public.infinite_pages_cache_2026_02 USING btree (user_id, content_type);


--
-- Name: infinite_pages_cache_2026_11_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_11_expires_at_idx ON public.infinite_pages_cache_2026_11 USING btree (expires_at);


--
-- Name: infinite_pages_cache_2026_11_story_id_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_11_story_id_idx ON public.infinite_pages_cache_2026_11 USING btree (story_id);


--
-- Name: infinite_pages_cache_2026_11_user_id_cache_entry_digest_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE UNIQUE INDEX infinite_pages_cache_2026_11_user_id_cache_entry_digest_idx ON public.infinite_pages_cache_2026_11 USING btree (user_id, public.cache_entry_digest(content_type, cache_key));


--
-- Name: infinite_pages_cache_2026_11_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_11_user_id_content_type_idx ON public.infinite_pages_cache_2026_11 USING btree (user_id, content_type);


--
-- Name: infinite_pages_cache_2026_12_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_12_expires_at_idx ON public.infinite_pages_cache_2026_12 USING btree (expires_at);


--
-- Name: infinite_pages_cache_2026_12_story_id_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_12_story_id_idx ON public.infinite_pages_cache_2026_12 USING btree (story_id);


--
-- Name: infinite_pages_cache_2026_12_user_id_cache_entry_digest_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE UNIQUE INDEX infinite_pages_cache_2026_12_user_id_cache_entry_digest_idx ON public.infinite_pages_cache_2026_12 USING btree (user_id, public.cache_entry_digest(content_type, cache_key));


--
-- Name: infinite_pages_cache_2026_12_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2026_12_user_id_content_type_idx ON public.infinite_pages_cache_2026_12 USING btree (user_id, content_type);


--
-- Name: infinite_pages_cache_2027_01_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2027_01_expires_at_idx ON public.infinite_pages_cache_2027_01 USING btree (expires_at);


--
-- Name: infinite_pages_cache_2027_01_story_id_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2027_01_story_id_idx ON public.infinite_pages_cache_2027_01 USING btree (story_id);


--
-- Name: infinite_pages_cache_2027_01_user_id_cache_entry_digest_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE UNIQUE INDEX infinite_pages_cache_2027_01_user_id_cache_entry_digest_idx ON public.infinite_pages_cache_2027_01 USING btree (user_id, public.cache_entry_digest(content_type, cache_key));


--
-- Name: infinite_pages_cache_2027_01_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2027_01_user_id_content_type_idx ON public.infinite_pages_cache_2027_01 USING btree (user_id, content_type);


--
-- Name: infinite_pages_cache_2027_02_expires_at_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2027_02_expires_at_idx ON public.infinite_pages_cache_2027_02 USING btree (expires_at);


--
-- Name: infinite_pages_cache_2027_02_story_id_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2027_02_story_id_idx ON public.infinite_pages_cache_2027_02 USING btree (story_id);


--
-- Name: infinite_pages_cache_2027_02_user_id_cache_entry_digest_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE UNIQUE INDEX infinite_pages_cache_2027_02_user_id_cache_entry_digest_idx ON public.infinite_pages_cache_2027_02 USING btree (user_id, public.cache_entry_digest(content_type, cache_key));


--
-- Name: infinite_pages_cache_2027_02_user_id_content_type_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX infinite_pages_cache_2027_02_user_id_content_type_idx ON public.infinite_pages_cache_2027_02 USING btree (user_id, content_type);


--
-- Name: cache_audit_log_2026_03_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_pkey ATTACH PARTITION public.cache_audit_log_2026_03_pkey;


--
-- Name: cache_audit_log_2026_03_timestamp_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_timestamp_idx ATTACH PARTITION public.cache_audit_log_2026_03_timestamp_idx;


--
-- Name: cache_audit_log_2026_11_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_pkey ATTACH PARTITION public.cache_audit_log_2026_11_pkey;


--
-- Name: cache_audit_log_2026_11_timestamp_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_timestamp_idx ATTACH PARTITION public.cache_audit_log_2026_11_timestamp_idx;


--
-- Name: cache_audit_log_2026_12_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_pkey ATTACH PARTITION public.cache_audit_log_2026_12_pkey;


--
-- Name: cache_audit_log_2026_12_timestamp_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_timestamp_idx ATTACH PARTITION public.cache_audit_log_2026_12_timestamp_idx;


--
-- Name: cache_audit_log_2027_01_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_pkey ATTACH PARTITION public.cache_audit_log_2027_01_pkey;


--
-- Name: cache_audit_log_2027_01_timestamp_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_timestamp_idx ATTACH PARTITION public.cache_audit_log_2027_01_timestamp_idx;


--
-- Name: cache_audit_log_2027_02_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_pkey ATTACH PARTITION public.cache_audit_log_2027_02_pkey;


--
-- Name: cache_audit_log_2027_02_timestamp_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.cache_audit_log_timestamp_idx ATTACH PARTITION public.cache_audit_log_2027_02_timestamp_idx;


--
-- Name: infinite_pages_cache_2025_12_expires_at_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_expires_at_idx ATTACH PARTITION public.infinite_pages_cache_2025_12_expires_at_idx;


--
-- Name: infinite_pages_cache_2025_12_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_pkey ATTACH PARTITION public.infinite_pages_cache_2025_12_pkey;


--
-- Name: infinite_pages_cache_2025_12_story_id_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.by_story ATTACH PARTITION public.infinite_pages_cache_2025_12_story_id_idx;


--
-- Name: infinite_pages_cache_2025_12_user_id_content_type_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_user_id_content_type_idx ATTACH PARTITION public.infinite_pages_cache_2025_12_user_id_content_type_idx;


--
-- Name: infinite_pages_cache_2026_02_expires_at_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_expires_at_idx ATTACH PARTITION public.infinite_pages_cache_2026_02_expires_at_idx;


--
-- Name: infinite_pages_cache_2026_02_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_pkey ATTACH PARTITION public.infinite_pages_cache_2026_02_pkey;


--
-- Name: infinite_pages_cache_2026_02_story_id_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.by_story ATTACH PARTITION public.infinite_pages_cache_2026_02_story_id_idx;


--
-- Name: infinite_pages_cache_2026_02_user_id_content_type_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_user_id_content_type_idx ATTACH PARTITION public.infinite_pages_cache_2026_02_user_id_content_type_idx;


--
-- Name: infinite_pages_cache_2026_11_expires_at_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_expires_at_idx ATTACH PARTITION public.infinite_pages_cache_2026_11_expires_at_idx;


--
-- Name: infinite_pages_cache_2026_11_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_pkey ATTACH PARTITION public.infinite_pages_cache_2026_11_pkey;


--
-- Name: infinite_pages_cache_2026_11_story_id_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.by_story ATTACH PARTITION public.infinite_pages_cache_2026_11_story_id_idx;


--
-- Name: infinite_pages_cache_2026_11_user_id_content_type_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_user_id_content_type_idx ATTACH PARTITION public.infinite_pages_cache_2026_11_user_id_content_type_idx;


--
-- Name: infinite_pages_cache_2026_12_expires_at_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_expires_at_idx ATTACH PARTITION public.infinite_pages_cache_2026_12_expires_at_idx;


--
-- Name: infinite_pages_cache_2026_12_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_pkey ATTACH PARTITION public.infinite_pages_cache_2026_12_pkey;


--
-- Name: infinite_pages_cache_2026_12_story_id_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.by_story ATTACH PARTITION public.infinite_pages_cache_2026_12_story_id_idx;


--
-- Name: infinite_pages_cache_2026_12_user_id_content_type_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_user_id_content_type_idx ATTACH PARTITION public.infinite_pages_cache_2026_12_user_id_content_type_idx;


--
-- Name: infinite_pages_cache_2027_01_expires_at_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_expires_at_idx ATTACH PARTITION public.infinite_pages_cache_2027_01_expires_at_idx;


--
-- Name: infinite_pages_cache_2027_01_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_pkey ATTACH PARTITION public.infinite_pages_cache_2027_01_pkey;


--
-- Name: infinite_pages_cache_2027_01_story_id_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.by_story ATTACH PARTITION public.infinite_pages_cache_2027_01_story_id_idx;


--
-- Name: infinite_pages_cache_2027_01_user_id_content_type_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_user_id_content_type_idx ATTACH PARTITION public.infinite_pages_cache_2027_01_user_id_content_type_idx;


--
-- Name: infinite_pages_cache_2027_02_expires_at_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_expires_at_idx ATTACH PARTITION public.infinite_pages_cache_2027_02_expires_at_idx;


--
-- Name: infinite_pages_cache_2027_02_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_pkey ATTACH PARTITION public.infinite_pages_cache_2027_02_pkey;


--
-- Name: infinite_pages_cache_2027_02_story_id_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.by_story ATTACH PARTITION public.infinite_pages_cache_2027_02_story_id_idx;


--
-- Name: infinite_pages_cache_2027_02_user_id_content_type_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.infinite_pages_cache_partitioned_user_id_content_type_idx ATTACH PARTITION public.infinite_pages_cache_2027_02_user_id_content_type_idx;


--
-- Name: cache_audit_archive admin_maintenance_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY admin_maintenance_access ON public.cache_audit_archive TO pg_database_owner USING (true) WITH CHECK (true);


--
-- Name: cache_audit_log admin_maintenance_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY admin_maintenance_access ON public.cache_audit_log TO pg_database_owner USING (true) WITH CHECK (true);


--
-- Name: infinite_pages_cache_partitioned admin_maintenance_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY admin_maintenance_access ON public.infinite_pages_cache_partitioned TO pg_database_owner USING (true) WITH CHECK (true);


--
-- Name: cache_audit_archive analytics_readonly_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY analytics_readonly_access ON public.cache_audit_archive FOR SELECT TO pg_read_all_data USING (true);


--
-- Name: cache_audit_log analytics_readonly_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY analytics_readonly_access ON public.cache_audit_log FOR SELECT TO pg_read_all_data USING (true);


--
-- Name: infinite_pages_cache_partitioned analytics_readonly_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY analytics_readonly_access ON public.infinite_pages_cache_partitioned FOR SELECT TO pg_read_all_data USING ((hit_count >= 0));


--
-- Name: cache_audit_archive; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_archive ENABLE ROW LEVEL SECURITY;

--
-- Name: cache_audit_log; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log ENABLE ROW LEVEL SECURITY;

--
-- Name: cache_audit_log_2026_01; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log_2026_01 ENABLE ROW LEVEL SECURITY;

--
-- Name: cache_audit_log_2026_11; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log_2026_11 ENABLE ROW LEVEL SECURITY;

--
-- Name: cache_audit_log_2026_12; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log_2026_12 ENABLE ROW LEVEL SECURITY;

--
-- Name: cache_audit_log_2027_01; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log_2027_01 ENABLE ROW LEVEL SECURITY;

--
-- Name: cache_audit_log_2027_02; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.cache_audit_log_2027_02 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_2025_12; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_2025_12 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_2026_02; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_2026_02 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_2026_11; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_2026_11 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_2026_12; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_2026_12 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_2027_01; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_2027_01 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_2027_02; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_2027_02 ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_partitioned; Type: ROW SECURITY; Schema: public; Owner: postgres
--

ALTER TABLE public.infinite_pages_cache_partitioned ENABLE ROW LEVEL SECURITY;

--
-- Name: infinite_pages_cache_partitioned tenant_isolation_cache_access; Type: POLICY; Schema: public; Owner: postgres
--

CREATE POLICY tenant_isolation_cache_access ON public.infinite_pages_cache_partitioned USING ((user_id = public.cache_current_user_id())) WITH CHECK ((user_id = public.cache_current_user_id()));


--
-- Name: FUNCTION cache_lookup_many(user_id uuid, content_type text, cache_keys text[]); Type: ACL; Schema: public; Owner: postgres
--

REVOKE ALL ON FUNCTION public.cache_lookup_many(user_id uuid, content_type text, cache_keys text[]) FROM PUBLIC;


--
-- PostgreSQL database dump complete
--


