;; A tool written by hand: how many steps n -> n/2 or 3n+1 takes to reach 1. What a module must export is said in
;; sandbox/src/tool/wasm/mod.rs; this one needs no JSON parser, because its schema leaves one number in the arguments.
(module
  (memory (export "memory") 1)

  (data (i32.const 0)
    "{\"name\": \"collatz\", \"description\": \"Steps of the Collatz sequence from n down to 1.\", \"schema\": {\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 1000000000}}, \"required\": [\"n\"], \"additionalProperties\": false}}")

  ;; The text above: at 0, 244 bytes.
  (func (export "describe") (result i64)
    (i64.const 244))

  ;; A call takes one allocation, so one place is enough; 0 says that there is no room.
  (func (export "alloc") (param $len i32) (result i32)
    (select (i32.const 0) (i32.const 1024) (i32.gt_u (local.get $len) (i32.const 4096))))

  (func (export "call") (param $at i32) (param $len i32) (result i64)
    (local $end i32) (local $byte i32) (local $n i64) (local $steps i64)
    ;; The digits of {"n":27} are n.
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (loop $read
      (local.set $byte (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (if (i32.lt_u (local.get $byte) (i32.const 10))
        (then (local.set $n
          (i64.add (i64.mul (local.get $n) (i64.const 10)) (i64.extend_i32_u (local.get $byte))))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $read (i32.lt_u (local.get $at) (local.get $end))))
    (loop $step
      (if (i64.gt_u (local.get $n) (i64.const 1))
        (then
          (local.set $n (select
            (i64.add (i64.mul (local.get $n) (i64.const 3)) (i64.const 1))
            (i64.shr_u (local.get $n) (i64.const 1))
            (i32.wrap_i64 (i64.and (local.get $n) (i64.const 1)))))
          (local.set $steps (i64.add (local.get $steps) (i64.const 1)))
          (br $step))))
    ;; The result's digits, written from the end: 8192 is one past the last.
    (local.set $at (i32.const 8192))
    (loop $write
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $steps) (i64.const 10)))))
      (local.set $steps (i64.div_u (local.get $steps) (i64.const 10)))
      (br_if $write (i64.ne (local.get $steps) (i64.const 0))))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (i32.sub (i32.const 8192) (local.get $at))))))
