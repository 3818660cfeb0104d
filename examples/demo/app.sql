-- The story application: its users, the texts that a language model would write for it, and how it handles a request.
-- Everything that concerns the cache is in app.ask.
CREATE SCHEMA app;

CREATE TABLE app.users (name text PRIMARY KEY, id uuid NOT NULL);
INSERT INTO app.users VALUES
    ('nadia', '5d0f7c1e-0a52-4c3b-9d0e-2f7a1b6c0001'),
    ('tomas', '5d0f7c1e-0a52-4c3b-9d0e-2f7a1b6c0002'),
    ('ilse', '5d0f7c1e-0a52-4c3b-9d0e-2f7a1b6c0003');

CREATE TABLE app.texts (
    name text PRIMARY KEY,          -- flat-water/chapter_content-1
    story text NOT NULL,            -- flat-water
    content_type text NOT NULL,     -- chapter_content
    title text NOT NULL,
    request jsonb NOT NULL,         -- what the language model is asked
    answer jsonb NOT NULL,          -- what it answers
    tokens integer NOT NULL         -- what that costs: a token for four characters, of question and answer
);

-- A file of story/ is a title (# …), a prompt (> …), an empty line, and the text.
CREATE PROCEDURE app.add_text(file text, body text) LANGUAGE sql AS $$
    INSERT INTO app.texts
    SELECT name, split_part(name, '/', 1), substring(name FROM '/([a-z_]+)'), title,
           jsonb_build_object('model', 'storyteller-2', 'temperature', 0.8, 'prompt', prompt),
           jsonb_build_object('title', title, 'text', story),
           ceil(length(prompt || story) / 4.0)
    FROM (SELECT substring(file FROM 'story/(.*)\.md') AS name,
                 substring(body FROM '^# ([^\n]*)') AS title,
                 substring(body FROM '\n> ([^\n]*)') AS prompt,
                 substring(body FROM '\n\n(.*)$') AS story) AS parts
$$;

CREATE FUNCTION app.key(wanted text) RETURNS text LANGUAGE sql AS $$
    SELECT cache_key(request) FROM app.texts WHERE name = wanted
$$;

-- The application's own log, to tell the day request by request, and to compare with what the cache counts.
CREATE TABLE app.log (
    id integer GENERATED ALWAYS AS IDENTITY,
    at time NOT NULL,
    who text NOT NULL,
    content_type text NOT NULL,
    title text NOT NULL,
    hit boolean NOT NULL,
    tokens integer NOT NULL,
    lookup_ms numeric NOT NULL
);

CREATE PROCEDURE app.ask(at time, who text, wanted text) LANGUAGE plpgsql AS $$
DECLARE
    me uuid := (SELECT id FROM app.users WHERE name = who);
    model app.texts := (SELECT t FROM app.texts t WHERE name = wanted);
    key text := app.key(wanted);
    started timestamptz := clock_timestamp();
    answer jsonb := cache_lookup(me, model.content_type, key);
    lookup interval := clock_timestamp() - started;
BEGIN
    IF answer IS NULL THEN
        -- Here the application would wait some seconds for its language model.
        PERFORM cache_upsert(
            me, model.content_type, key, model.answer,
            token_cost => model.tokens,
            metadata => jsonb_build_object('story', model.story, 'model', model.request -> 'model'),
            foundation_dependency => CASE WHEN model.content_type <> 'story_foundation' THEN model.story END);
    END IF;
    INSERT INTO app.log (at, who, content_type, title, hit, tokens, lookup_ms)
    VALUES (at, who, model.content_type, model.title, answer IS NOT NULL, model.tokens,
            extract(epoch FROM lookup) * 1000);
END $$;

-- The requests of the day, each in a transaction of its own.
CREATE TABLE app.day (at time NOT NULL, who text NOT NULL, wanted text NOT NULL);
\copy app.day FROM 'day.csv' CSV HEADER

CREATE PROCEDURE app.work(starting time, ending time) LANGUAGE plpgsql AS $$
DECLARE
    request app.day;
BEGIN
    FOR request IN SELECT * FROM app.day d WHERE d.at >= starting AND d.at < ending ORDER BY d.at LOOP
        CALL app.ask(request.at, request.who, request.wanted);
        COMMIT;
    END LOOP;
END $$;
