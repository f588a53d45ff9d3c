"""A Go program: a ring of goroutines, timers and tickers, and a lot of garbage to collect."""
import os

from app import CountingApp

PROGRAM = r"""
package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

type counter struct {
	file *os.File
	next int
}

func open(name string) *counter {
	file, err := os.Create(name)
	if err != nil {
		panic(err)
	}
	return &counter{file: file}
}

func (c *counter) add(n int) {
	if n != c.next {
		panic(fmt.Sprint(c.file.Name(), ": ", n, " after ", c.next))
	}
	c.next++
	fmt.Fprintf(c.file, "%08d\n", n)
}

func ring(size int) {
	log := open("log-ring")
	first := make(chan int)
	in := first
	for i := 0; i < size; i++ {
		out := make(chan int)
		go func(in, out chan int) {
			for n := range in {
				out <- n + 1
			}
		}(in, out)
		in = out
	}
	for n := 0; ; n++ {
		first <- n * size
		log.add(<-in/size - 1)
		time.Sleep(2 * time.Millisecond)
	}
}

func ticks() {
	log := open("log-ticks")
	ticker := time.NewTicker(3 * time.Millisecond)
	for n := 0; ; n++ {
		<-ticker.C
		log.add(n)
	}
}

func timers() {
	log := open("log-timers")
	done := make(chan int)
	for n := 0; ; n++ {
		value := n
		time.AfterFunc(2*time.Millisecond, func() { done <- value })
		select {
		case got := <-done:
			log.add(got)
		case <-time.After(time.Minute):
			panic("a timer is lost")
		}
	}
}

func garbage() {
	log := open("log-garbage")
	var lock sync.Mutex
	kept := map[int][]byte{}
	for n := 0; ; n++ {
		lock.Lock()
		kept[n] = make([]byte, 10000)
		kept[n][n%10000] = byte(n)
		if n >= 100 {
			if kept[n-100][(n-100)%10000] != byte(n-100) {
				panic("memory is not what it was")
			}
			delete(kept, n-100)
		}
		lock.Unlock()
		log.add(n)
		time.Sleep(time.Millisecond)
	}
}

func main() {
	go ring(500)
	go ticks()
	go timers()
	garbage()
}
"""


class Test(CountingApp):
    programs = ("go",)
    logs = ("log-ring", "log-ticks", "log-timers", "log-garbage")

    def start(self):
        self.write("main.go", PROGRAM)
        self.run(["go", "build", "-o", "program", "main.go"], seconds=100,
                 env=dict(os.environ, GOCACHE=self.path("cache"), GO111MODULE="off", GOFLAGS="", HOME=self.work))
        self.spawn([self.path("program")])
