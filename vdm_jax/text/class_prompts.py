"""Prompts for the classes of a data set, by which text is scored on it.

Ge23 §5 samples UCF-101 by a text for each class. Its list is reprinted by Yu et
al. 2024 (CMD, Fig. 8) and, with one prompt a class as here, by Ren et al. 2024
(ConsistI2V, App. B.1). Spelling is theirs.
"""

# A line a class, in the order of classInd.txt: ApplyEyeMakeup … YoYo.
_UCF101 = """\
applying eye makeup
applying lipstick
archery
baby crawling
gymnast performing on a balance beam
band marching
baseball pitcher throwing baseball
a basketball player shooting basketball
dunking basketball in a basketball match
bench press
biking
billiards
blow dry hair
blowing candles
body weight squats
a person bowling on bowling alley
boxing punching bag
boxing speed bag
swimmer doing breast stroke
brushing teeth
clean and jerk
cliff diving
bowling in cricket gameplay
batting in cricket gameplay
cutting in kitchen
diver diving into a swimming pool from a springboard
drumming
two fencers have fencing match indoors
field hockey match
gymnast performing on the floor
group of people playing frisbee on the playground
swimmer doing front crawl
golfer swings and strikes the ball
haircuting
a person hammering a nail
an athlete performing the hammer throw
an athlete doing handstand push up
an athlete doing handstand walking
massagist doing head massage to man
an athlete doing high jump
horse race
person riding a horse
a woman doing hula hoop
ice dancing
athlete practicing javelin throw
a person juggling with balls
a young person doing jumping jacks
a person skipping with jump rope
a person kayaking in rapid water
knitting
an athlete doing long jump
a person doing lunges with barbell
military parade
mixing in the kitchen
mopping floor
a person practicing nunchuck
gymnast performing on parallel bars
a person tossing pizza dough
a musician playing the cello in a room
a musician playing the daf
a musician playing the indian dhol
a musician playing the flute
a musician playing the guitar
a musician playing the piano
a musician playing the sitar
a musician playing the tabla
a musician playing the violin
an athlete jumps over the bar
gymnast performing pommel horse exercise
a person doing pull ups on bar
boxing match
push ups
group of people rafting on fast moving river
rock climbing indoor
rope climbing
several people rowing a boat on the river
couple salsa dancing
young man shaving beard with razor
an athlete practicing shot put throw
a teenager skateboarding
skier skiing down
jet ski on the water
sky diving
soccer player juggling football
soccer player doing penalty kick in a soccer match
gymnast performing on still rings
sumo wrestling
surfing
kids swing at the park
a person playing table tennis
a person doing TaiChi
a person playing tennis
an athlete practicing discus throw
trampoline jumping
typing on computer keyboard
a gymnast performing on the uneven bars
people playing volleyball
walking with dog
a person doing pushups on the wall
a person writing on the blackboard
a kid playing Yo-Yo
"""


def prompts() -> tuple[str, ...]:
  """Those of UCF-101, one for each of its 101 classes in their order."""
  return tuple(_UCF101.splitlines())
