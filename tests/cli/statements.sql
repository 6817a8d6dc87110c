-- Statements end to end on two coordinates, where scores are easy to see.
CREATE COLLECTION points (dim 2, metric l2, rerank f32, id string)
  FIELDS (color STRING, size INT, weight FLOAT, tags STRING[], ok BOOL);
CREATE COLLECTION IF NOT EXISTS points (dim 2);
INSERT INTO points (id, vector, color, size, weight, tags, ok, document) VALUES
  ('a', [0, 0.5], 'red', 1, 0.5, ['x', 'y'], TRUE, 'first; "quoted"'),
  ('b', [1, 0], 'blue', 2, NULL, [], FALSE, NULL),
  ('c', [0, 2], 'red', 3, 2.25, NULL, NULL, 'it''s 日本');
INSERT INTO points VALUES ('d', [5, 5], 'green', 4, 1, ['z'], TRUE);
SELECT * FROM points;
SELECT COUNT(*) FROM points WHERE color = 'red';
SELECT id, score, distance FROM points NEAREST TO [0, 0] LIMIT 3;
SELECT id, distance FROM points NEAREST TO ID 'c' WHERE color = 'red';
SELECT id FROM points NEAREST TO [0, 0] LIMIT 2 AFTER (-1, 'b');
SELECT id FROM points NEAREST TO [0, 0] WITH (exact true, min_score -1.5);
SELECT id FROM points NEAREST TO [0, 0] WITH (recall => 0.95, nprobe 2) LIMIT 1;
INSERT OR REPLACE INTO points (id, vector, color) VALUES ('a', [9, 9], 'black');
SELECT id, color, size, document FROM points WHERE id = 'a';
ALTER COLLECTION points ADD FIELD note STRING;
INSERT INTO points (id, vector, note) VALUES ('e', [0, 0], 'new');
SELECT id, note FROM points WHERE note IS NOT NULL;
DELETE FROM points WHERE color = 'blue' OR size >= 4;
SELECT id FROM points;
.mode json
SELECT id, vector, weight, tags FROM points WHERE id = 'c';
.mode csv
SELECT id, document FROM points;
.mode line
SELECT id, color FROM points LIMIT 1;
.mode markdown
DESCRIBE points;
SHOW COLLECTIONS;
.schema
CREATE COLLECTION large (dim 2, partition_rows => 5000);
CREATE COLLECTION scanned (dim 2, partition_rows never);
.schema large
.schema scanned
DROP COLLECTION large;
DROP COLLECTION scanned;
DROP COLLECTION points;
DROP COLLECTION IF EXISTS points;
.collections
SHOW COLLECTIONS;
